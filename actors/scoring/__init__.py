"""What gives perplexities: exact leave-one-out scoring with a causal language model.

protocol       what the Refiner asks of a scorer
build          a picklable factory of the scorer
preparation    a request's texts as tokens, scored spans and a prefix forest (no torch)
preparers      a thread or processes in which requests are prepared ahead of the scorer
scorer_thread  the thread in which a scorer computes, and who is to blame if it raises
forest_task    one request as a prefix forest, and what is kept of it between rounds
attention      attention over several forests in one pass
head           token losses from hidden states, with logits in float32
transfer       index arrays to the device in one copy
forest_scorer  the model: packs forests into passes under a token budget (no Ray inside)
"""
