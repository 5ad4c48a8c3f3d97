"""What runs in Ray workers: classes that hold a model, and what they read and write.

    storage   one interface to local paths and every URI that pyarrow or fsspec reads
    corpus    the input: files -> rows with a stable id, as a Ray Data source
    records   the output: terminal records, committed as whole Parquet files
    record_kinds  the columns of each job's records, and which numbers add up
    ledger    what an actor owes for the rows it was given: journal, commits, one record each
    journal   which rows were in flight when a process died
    models    a model name -> a folder; converts the embedded model
    scorer_protocol  what the refiner asks of a scorer
    scorer    a model and a prefix forest -> perplexities, exact, under a token budget (no Ray inside)
    engine_protocol      what the sampler asks of an engine
    row_cache            keys and values of rows of different lengths, for that engine
    transformers_engine  draws samples with a model in this process (no Ray inside)
    openai_engine        draws samples from an endpoint, however long it is gone
    sampler   hands questions to an engine, and their samples to the ledger
    complaint what an actor says when only a person can mend it
    grader    grades samples, in processes that can be killed
    grading_process      what runs in those processes
    examples  files of solutions -> tokenised examples to train on
    batches   tokenised examples -> micro-batches, in an order that depends on the seed alone
    adapter_trainer      transformers' Trainer with losses of ours (no Ray inside)
    training  the loop of a Ray Train worker: shards, checkpoints, metrics
    teacher   what a teacher says of each example, computed once before training
    refiner   drives many refinements at once and keeps one scorer busy

An actor is a plain callable class: the model in `__init__`, a batch in `__call__`, so a test can call it.
"""
