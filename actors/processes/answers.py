"""What a server's processes run: read the answer in a text, compare it with others. Imports no Ray."""

import logging
from collections.abc import Sequence
from typing import Final

from actors.processes import grading
from algorithms.answers.kinds import KINDS

PRELOAD: Final = ("actors.processes.answers", *grading.PRELOAD)

logger = logging.getLogger(__name__)


def prepare() -> None:
    """Do once in each process what is slow the first time."""
    grading.prepare()
    read_answer("mathematics", None, "So it is \\boxed{\\frac{1}{2}}.")
    equal_answers("mathematics", "0.5", ["\\frac{1}{2}"])


def read_answer(kind: str, argument: str | None, text: str) -> str | None:
    """The answer that a text states, of a kind of KINDS. None if it states none, or reading it raises."""
    try:
        return KINDS[kind].read(text, argument)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  SymPy raises nearly every exception there is
        logger.warning("reading an answer raised %s", type(error).__name__)  # its text may quote the sample
        return None


def equal_answers(kind: str, answer: str, others: Sequence[str]) -> list[str]:
    """Those of the others that equal an answer. A comparison that raises means no."""
    return [other for other in others if _equal(kind, other, answer)]


def _equal(kind: str, one: str, other: str) -> bool:
    try:
        return KINDS[kind].equal(one, other)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  SymPy raises nearly every exception there is
        return False
