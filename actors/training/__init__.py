"""What trains: from rows to an adapter.

    examples  files of solutions -> tokenised examples
    teacher   NCE's teacher, run once before training
    shards    which rows of which files a worker reads
    batches   tokenised examples -> micro-batches, in an order that depends only on the seed
    sharding  a base in parts: FSDP
    trainer   transformers' Trainer with the methods' losses (no Ray inside)
    worker    the loop of a Ray Train worker: its rows, checkpoints, metrics

The methods themselves (losses, adapters, views of the data) are in `algorithms.methods`.
"""
