"""What runs in Ray workers. This folder holds the workers; its subfolders hold their parts.

    refiner    the worker of `jobs.refine`: drives many refinements at once and keeps one scorer busy
    demonstrator  the worker of `jobs.demos`: scores candidate few-shot prompts
    sampler    the worker of `jobs.sample`: asks an engine for the samples of many questions at once
    grader     the worker of `jobs.grade`: grades samples in processes that can be killed
    ranker     the worker of `jobs.rank`: scores graded samples
    evaluation  what `jobs.evaluate` runs in tasks: compact tables of samples, joined answer classes
    diagnosis  what a node is and sees, for `jobs.doctor`
    errors     the errors that decide what happens to a run
    code       the code that workers on other nodes import

    runs/       a run's folder: input, records, ledger, journal, manifest
    models/     the one place that loads models, tokenizers and adapters
    engines/    what draws samples: transformers, vLLM, any OpenAI-compatible endpoint
    scoring/    what gives perplexities
    merging/    what merges two steps of a chain
    training/   from rows to an adapter, in Ray Train workers
    ranking/    rankers of solutions, and fitting them
    processes/  child processes that can be killed

A worker is a plain callable class: the model in `__init__`, a batch in `__call__`, so a test can call it. It hands the
records of its rows to a `runs.ledger.Ledger`.
"""
