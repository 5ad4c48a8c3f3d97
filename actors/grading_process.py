"""What runs in the processes that grade: they may be killed at any time, by their parent or by the kernel.

SymPy can compute on one expression for hours, in C code that no Python signal interrupts, or fill the
memory. So a process has a limit of memory, and before each task it asks the kernel to kill it once the task
has used far more processor time than it may: even when its parent is gone.
"""

import logging
import math
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from algorithms.grading import grade

MEMORY_BYTES: Final = 2 << 30
MAX_DIGITS: Final = 1 << 20

Sample = tuple[int, str, bool]  # sample index, text, whether its last number may be the answer


def prepare() -> None:
    """Once a process: import what is slow to import, then limit the memory."""
    from latex2sympy2_extended import latex2sympy

    latex2sympy("1+x")
    # It warns on every call that limiting time is left to others: to us.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    sys.set_int_max_str_digits(MAX_DIGITS)
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere than on Linux the limit is not kept either
        in_use = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_at_most(in_use + MEMORY_BYTES, hard), hard))


def grade_samples(
    question: str, gold: str, samples: Sequence[Sample], limit_seconds: float
) -> list[tuple[int, dict[str, Any]]]:
    """The grades of some samples of one problem, by sample index."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    last_second = math.ceil(time.process_time() + 3 * limit_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (_at_most(last_second, hard), hard))
    return [(index, _grade(question, gold, text, is_numeric)) for index, text, is_numeric in samples]


def _grade(question: str, gold: str, text: str, is_numeric: bool) -> dict[str, Any]:
    """SymPy fails in every way there is; that is a sample's own fault, and no other's."""
    try:
        return asdict(grade(question, gold, text, last_number=is_numeric))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001
        return {"reason": f"failed: {type(error).__name__}: {str(error)[:200]}"}


def _at_most(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
