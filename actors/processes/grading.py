"""What the grader's processes run: a problem's samples in, their grades out. Imports no Ray."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from algorithms.answers.classes import answer_classes
from algorithms.grading import grade
from algorithms.step_checks import check, summary

PRELOAD: Final = ("actors.processes.grading", "algorithms.answers.equivalence", "math_verify")
MAX_DIGITS: Final = 1 << 20
CLAIMS: Final = ("claims_true", "claims_false", "claims_unchecked")

Sample = tuple[int, str, bool]  # sample index, text, whether its last number may be the answer


def prepare() -> None:
    """Do once in each process what is slow the first time."""
    from latex2sympy2_extended import latex2sympy

    latex2sympy("1+x")
    # math-verify warns on every call that it has no timeout. The pool has.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    sys.set_int_max_str_digits(MAX_DIGITS)


def grade_samples(question: str, gold: str, samples: Sequence[Sample]) -> list[tuple[int, dict[str, Any]]]:
    """The grades of some samples of one problem, by sample index."""
    return [(index, _grade(question, gold, text, is_numeric)) for index, text, is_numeric in samples]


def class_answers(answers: Sequence[str | None]) -> list[int | None]:
    """The class of each answer to one problem, as `algorithms.answers.classes` numbers them."""
    return answer_classes(answers)


def _grade(question: str, gold: str, text: str, is_numeric: bool) -> dict[str, Any]:
    """SymPy raises nearly every exception there is. It concerns this sample only."""
    try:
        return asdict(grade(question, gold, text, last_number=is_numeric)) | _claims(question, text)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  one sample must not end the pool's process
        return {"reason": f"failed: {type(error).__name__}: {str(error)[:200]}"}


def _claims(question: str, text: str) -> dict[str, int]:
    """How many claims of a solution hold, do not hold, and cannot be checked."""
    counts = summary(check(text, question))
    return {name: counts[name] for name in CLAIMS}
