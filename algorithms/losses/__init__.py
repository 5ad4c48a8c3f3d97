"""Losses that learn from right and wrong chains: pure functions, `(logits, batch, ...) -> (loss, metrics)`.

    batch                a flat micro-batch, and the log-probabilities of its scored tokens
    examples             sequences of one example beside each other: length-normalised log-likelihoods
    likelihood           likelihood (SFT, CoT KD, MIX, NAT, the negative adapter), and with a sign or
                         1 - p for wrong sequences: negative training (NT), unlikelihood (UL)
    contrastive          CL: right against wrong samples of a question
    orpo                 ORPO: chosen against rejected by their odds
    negative_calibrated  NCE: a teacher's distributions, weighed by how far its negative side is from it

Normalisation. A loss is a sum over its items divided by `num_items`: token losses have scored tokens for items,
`contrastive` and `orpo` examples. Give the count of the whole optimizer step, over all micro-batches and ranks
(where the gradients of ranks are averaged, not added: that count / ranks); then what the micro-batches return adds
up to what the whole batch would have returned. Metrics are divided by the same number and add up in the same way.
Without `num_items` it is the batch's own count. Where nothing is scored, the loss is 0 and has a (zero) gradient, so
a rank without data stays in step.

To add a loss: one function here of the same form, with its equation and source in the docstring, and a test that
micro-batches add up.
"""
