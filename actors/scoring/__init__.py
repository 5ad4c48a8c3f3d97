"""What gives perplexities: exact leave-one-out scoring with a causal language model.

protocol       what the Refiner asks of a scorer
build          a picklable factory of the scorer
forest_task    one request as a prefix forest, and what is kept of it between rounds
attention      attention over several forests in one pass
forest_scorer  the model: packs forests into passes under a token budget (no Ray inside)
"""
