"""Graded samples: one record of `jobs.grade` -> a GradedSample, for verbs that read graded runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from algorithms.problems import SAMPLE_FACTS
from algorithms.row_errors import RowError, text

GRADES: Final = ("right", "wrong", "unknown")
# Columns of a graded record that pass through unchanged, with their types. Any of them may be null.
FACTS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "problem_id": str,
        "sample_index": int,
        "split": str,
        "correct": bool,
        "gold": str,
        "rationale": str,
        "answer": str,
        "found_by": str,
        "string_correct": bool,
        "given_correct": bool,
        "origin": str,
        "answer_class": int,
        "claims_true": int,
        "claims_false": int,
        "claims_unchecked": int,
        "score": float,  # of a run of jobs.rank
        **SAMPLE_FACTS,
    }
)


@dataclass(frozen=True, slots=True)
class GradedSample:
    """A sampled solution with its grade. `answer` is the answer that it states, `gold` the right one.

    `grade` is right, wrong or unknown, `grade_reason` explains an unknown one. The other fields are those of
    `jobs.grade`'s records.
    """

    question: str
    grade: str
    grade_reason: str | None
    problem_id: str | None
    sample_index: int | None
    split: str | None
    correct: bool | None
    gold: str | None
    rationale: str | None
    answer: str | None
    found_by: str | None
    string_correct: bool | None
    given_correct: bool | None
    origin: str | None
    answer_class: int | None
    claims_true: int | None
    claims_false: int | None
    claims_unchecked: int | None
    score: float | None
    num_tokens: int | None
    finish_reason: str | None
    mean_logprob: float | None


def graded(record: Mapping[str, Any], columns: Mapping[str, str], split: str) -> GradedSample:
    """A record of `jobs.grade`. Raises RowError for the record of a problem that was quarantined there."""
    grade = record.get("status")
    if grade == "quarantined":
        raise RowError("not_graded", str(record.get("reason") or ""))
    if grade not in GRADES:
        raise RowError("wrong_type", f"column 'status' must be one of {', '.join(GRADES)}, got {grade!r}")
    reason = record.get("reason")
    return GradedSample(
        question=text(record, "question"),
        grade=grade,
        grade_reason=reason if isinstance(reason, str) else None,
        **{name: _of_type(record.get(name), kind) for name, kind in FACTS.items()},
    )


def _of_type(value: Any, kind: type) -> Any:
    """A value, or None if it is missing or of another type."""
    return value if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) else None
