"""Rankers: how likely each of some solutions is right.

    protocol  what every ranker offers
    folder    a ranker's folder: what is in it, and loading it
    examples  graded samples -> a ranker's examples
    measuring  how good a ranker is on a split

    boosted   LightGBM over facts of a solution (`algorithms.ranking.features`)
    fitting   the Ray Train worker that fits a boosted ranker

    encoder          an encoder that reads question and solution (`algorithms.ranking.encoder_head`)
    encoder_files    its weights, config and tokenizer in the ranker's folder
    tokens           solutions -> tokens that fit the window
    token_store      tokenised samples in memory, and padded batches of them
    pairs            the pairs of an epoch, and batches of similar length
    peers            the processes that train together
    encoder_trainer  the training loop (no Ray inside)
    encoder_worker   the Ray Train worker: its samples, checkpoints, the finished ranker

To add a ranker: a module with its class and, in `folder`, an entry for its kind.
"""
