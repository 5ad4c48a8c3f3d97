"""What a person runs: one file is one verb, `python -m jobs.VERB` or `sluice VERB`.

    refine       a corpus -> the same corpus with the steps perplexity does not need taken out
    sample       many answers per question, from any engine
    grade        sampled solutions -> right, wrong or unknown, one record a sample
    train        refined or graded solutions -> an adapter: SFT, ORPO, NAT, NCE and their rivals
    report       the report of a run again, any time
    export       a refined corpus -> files that trainers load as they are
    make_corpus  a generated corpus of arithmetic word problems

What verbs share is in `driver`; a job never imports a job. To add one: a module with a docstring, a frozen
pydantic config (a docstring under each field is its --help), `run(config) -> int`, and `main`.
"""
