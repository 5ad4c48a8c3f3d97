"""Rankers of sampled solutions: what they know of a solution, and how good their scores are.

solutions    what a ranker sees of a sample
features     what a boosted ranker knows of a solution, in groups
answer_form  the form of the answer, and whether the question asks for it
text_shape   lengths, repetition, hedging words
losses       losses of pairs, for an encoder ranker
encoder_head the network of an encoder ranker: trunk, pooling, head
calibration  raw scores -> probabilities
metrics      pair accuracy, AUC, calibration error
"""
