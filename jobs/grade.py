"""Grade sampled solutions: the answer each one states, and whether it is the gold answer.

    python -m jobs.grade --input ../shared/data/math_teacher/gpt-4.parquet --format tdg --output runs/graded

One record per sample in OUTPUT/rows: right, wrong, or unknown with the reason. Comparing runs in processes
that are killed when an expression takes longer than --seconds-per-sample. `algorithms.answers` says what a
solution's answer is and when two are the same.
"""

import math
from typing import Final, Literal

from pydantic import Field, field_validator

from actors.grader import Grader
from actors.records import Totals
from jobs.driver import command, inputs, pipeline
from jobs.driver.pipeline import Pipeline, PipelineConfig, stream_through_actors

JOB: Final = "grade"


class GradeConfig(PipelineConfig):
    """Flags of `jobs.grade`."""

    format: Literal["tdg", "samples", "gsm8k-solutions"] = "samples"
    """How to read a row. samples: question, answer, samples (a run of jobs.sample, or lists of texts). tdg:
    question, answer with a \\boxed{}, generated_answer. gsm8k-solutions: question, ground_truth, and a column a
    model."""
    seconds_per_sample: float = Field(default=5.0, gt=0)
    """An answer that takes longer to compare gets no grade."""
    splits: tuple[float, float, float] = (0.9, 0.05, 0.05)
    """Fractions of problems in train, validation and held_out."""
    seed: int = 0
    """Of the splits, which depend on the question's text and on nothing else."""

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
            raise ValueError("grading needs no GPU: leave it out")
        return value


def main() -> None:
    """Entry point of `python -m jobs.grade`."""
    command.main(GradeConfig, run, __doc__ or "")


def run(config: GradeConfig) -> int:
    """Grade, or go on grading; the exit status."""
    corpus = inputs.open_corpus(config.input, config.format, config.columns, None, config.id_column, config.limit)
    processes = config.threads_per_actor or 1
    settings = (processes, config.seconds_per_sample, config.splits, config.seed)
    stream = stream_through_actors(config, Grader, lambda output, session: (output, session, *settings))
    identity = {"grading": config.model_dump(mode="json", include={"seconds_per_sample", "splits", "seed"})}
    return pipeline.run(Pipeline(JOB, config, corpus, identity, "grading", stream, _right))


def _right(totals: Totals) -> list[str]:
    graded = totals.num_records - totals.statuses["quarantined"]
    return [f"{graded:,} samples, {totals.statuses['right'] / graded:.1%} right"] if graded else []


if __name__ == "__main__":
    main()
