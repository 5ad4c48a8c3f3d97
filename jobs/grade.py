"""Grade sampled solutions: the answer that each states, and whether it equals the gold answer.

    python -m jobs.grade --input examples/samples.jsonl --output runs/graded

One record for each sample in OUTPUT/rows: right, wrong, or unknown with the reason. Answers are compared in processes
that are killed if an expression takes longer than --seconds-per-sample. `algorithms.answers` defines the answer of a
solution, and when two answers are equal.
"""

import math
from typing import Annotated, Final

import tyro
from pydantic import Field, field_validator

from actors.grader import Grader, rows_at_once
from actors.runs.record_kinds import GRADING
from actors.runs.totals import Totals
from algorithms.formats import formats_for
from jobs.driver import command, corpus_run, inputs
from jobs.driver.command import choice
from jobs.driver.corpus_run import CorpusConfig, CorpusRun, Pool, format_help

JOB: Final = "grade"


class GradeConfig(CorpusConfig):
    """Flags of `jobs.grade`."""

    format: Annotated[str, choice(formats_for("grade"))] = Field(default="samples", description=format_help("grade"))
    seconds_per_sample: float = Field(default=5.0, gt=0)
    """Time limit for comparing one answer. A sample that exceeds it is unknown."""
    splits: tuple[float, float, float] = (0.9, 0.05, 0.05)
    """Fractions of the problems in train, validation and held_out."""
    seed: int = 0
    """Seed of the splits. A problem's split depends only on this and on the text of its question."""
    gpus_per_actor: Annotated[float, tyro.conf.Suppress] = 0.0
    """Not a flag here: grading uses no GPU."""

    @field_validator("splits")
    @classmethod
    def _check_splits(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or not math.isclose(sum(value), 1.0, abs_tol=1e-6):
            raise ValueError("must be three fractions that sum to 1")
        return value

    @field_validator("gpus_per_actor")
    @classmethod
    def _check_gpus(cls, value: float) -> float:
        if value:
            raise ValueError("grading uses no GPU: leave the key out")
        return value


def main() -> None:
    """Entry point of `python -m jobs.grade`."""
    command.main(GradeConfig, run, __doc__ or "")


def run(config: GradeConfig) -> int:
    """Grade, or resume grading. Returns the exit status."""
    corpus = inputs.open_corpus(config.input, config.format, config.columns, None, config.id_column, config.limit)
    processes = config.threads_per_actor or 1
    settings = (processes, config.seconds_per_sample, config.splits, config.seed)
    pool = Pool(Grader, GRADING, lambda output, session: (output, session, *settings), rows_at_once(processes))
    identity = {"grading": config.model_dump(mode="json", include={"seconds_per_sample", "splits", "seed"})}
    return corpus_run.run(CorpusRun(JOB, config, corpus, identity, "grading", pool, _right))


def _right(totals: Totals) -> list[str]:
    graded = totals.num_records - totals.statuses["quarantined"]
    return [f"{graded:,} samples, {totals.statuses['right'] / graded:.1%} right"] if graded else []


if __name__ == "__main__":
    main()
