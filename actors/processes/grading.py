"""What the grader's processes run: a problem's samples in, their grades out. Imports no Ray."""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeVar

from algorithms.answers.classes import answer_classes, joined_classes, text_classes
from algorithms.grading import grade
from algorithms.step_checks import check, summary

PRELOAD: Final = ("actors.processes.grading", "algorithms.answers.equivalence", "math_verify")
MAX_DIGITS: Final = 1 << 20
CLAIMS: Final = ("claims_true", "claims_false", "claims_unchecked")

Result = TypeVar("Result")
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
    """The class of each answer to one problem. If comparing two of them raises, equal texts share a class."""
    return _unless_it_raises(lambda: answer_classes(answers), lambda error: text_classes(answers))


def join_classes(sources: Sequence[Sequence[str]]) -> list[list[int]]:
    """The classes of several sources of answers to one problem as one numbering. If that raises, by equal texts."""
    return _unless_it_raises(lambda: joined_classes(sources), lambda error: joined_texts(sources))


def joined_texts(sources: Sequence[Sequence[str]]) -> list[list[int]]:
    """The numbering in which only equal texts are equal."""
    return joined_classes(sources, lambda one, other: False)


def _grade(question: str, gold: str, text: str, is_numeric: bool) -> dict[str, Any]:
    graded = _unless_it_raises(
        lambda: asdict(grade(question, gold, text, last_number=is_numeric)),
        lambda error: {"reason": f"failed: {type(error).__name__}: {str(error)[:200]}"},
    )
    return graded | _unless_it_raises(lambda: _claims(question, text), lambda error: {})


def _claims(question: str, text: str) -> dict[str, Any]:
    """How many claims of a solution hold, do not hold, and cannot be checked."""
    counts = summary(check(text, question))
    return {name: counts[name] for name in CLAIMS}


def _unless_it_raises(compute: Callable[[], Result], instead: Callable[[Exception], Result]) -> Result:
    """What `compute` returns. SymPy raises nearly every exception there is, and it concerns this sample only."""
    try:
        return compute()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  one sample must cost neither its problem nor the pool's process
        return instead(error)
