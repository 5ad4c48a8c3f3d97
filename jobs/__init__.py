"""What a user runs: one file is one verb, `python -m jobs.VERB` or `sluice VERB`.

    make_corpus  make solved problems with redundant steps that are known, or put such steps into a corpus
    refine       remove the steps of a corpus that perplexity does not need
    demos        shorten the demonstrations of a few-shot prompt
    export       a refined corpus -> files that trainers load
    sample       draw many answers to each question, with any engine
    grade        sampled solutions -> right, wrong or unknown
    train        refined or graded solutions -> an adapter: SFT, ORPO, NAT, NCE and others; or a ranker
    rank         a calibrated score for each graded sample
    evaluate     votes and stopping rules on graded samples; comparisons of evaluations
    pipeline     many verbs as stages from one YAML file, finished stages skipped
    report       write the report of a run again
    doctor       what on this cluster would keep a run from finishing
    submit       a verb as a job on a cluster

    driver/      what verbs share on the driver
    reports/     the reports of their runs

A verb never imports a verb.

To add a verb: a module with a docstring, a frozen pydantic config (the docstring under a field is its help),
`run(config) -> int` and `main()`; its name in VERBS; and, if its runs have a report, `reports/VERB.py` with a template.
"""

from typing import Final

VERBS: Final = (
    "make_corpus",
    "refine",
    "demos",
    "export",
    "sample",
    "grade",
    "train",
    "rank",
    "evaluate",
    "pipeline",
    "report",
    "doctor",
    "submit",
)  # in the order of the work
