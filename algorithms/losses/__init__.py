"""Losses that learn from right and wrong chains: pure functions, `(logits, batch, ...) -> (loss, metrics)`.

    batch                a flat micro-batch, and the log-probabilities of its scored tokens
    examples             the sequences of a batch grouped by example, with length-normalised log-likelihoods
    likelihood           likelihood (SFT, CoT KD, MIX, NAT, the negative adapter), negative training (NT) and
                         unlikelihood (UL)
    contrastive          CL: contrast right with wrong samples of a question
    orpo                 ORPO: compare the odds of a chosen and a rejected sequence
    negative_calibrated  NCE: distil a teacher, weighted by its distance from its negative side

Normalisation. A loss is a sum over its items, divided by `num_items`. The items of a token loss are scored tokens;
the items of `contrastive` and `orpo` are examples. Pass the count of the whole optimizer step, over all
micro-batches and ranks. If the ranks average their gradients instead of adding them, pass that count / ranks. The
losses of the micro-batches then add up to the loss of the whole batch. Metrics use the same divisor and add up in
the same way. Without `num_items`, the divisor is the batch's own count. If nothing is scored, the loss is 0 with a
zero gradient, so a rank without data stays in step.

To add a loss, write one function of the same form. State its equation and source in the docstring. Test that
micro-batches add up.
"""
