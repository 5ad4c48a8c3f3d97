"""The list of tasks, and the one function that makes a problem of any of them."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from algorithms.tasks import al1, diff_calc, nbc, time_diff, word_problems
from algorithms.tasks.marks import Wordings, marked
from algorithms.tasks.problem import Difficulty, MarkedProblem, SolvedProblem


@dataclass(frozen=True, slots=True)
class Task:
    """How to make a solved problem. `description` is for `--help`."""

    description: str
    generate: Callable[[random.Random, Difficulty], SolvedProblem]


TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        "word-problems": Task("arithmetic with a number of things", word_problems.generate),
        "al1": Task("a linear equation in one unknown, always in 7 steps", al1.generate),
        "nbc": Task("a number from one base to another, always in 9, 12 or 16 steps", nbc.generate),
        "diff-calc": Task("the derivative of a polynomial at a point", diff_calc.generate),
        "time-diff": Task("the minutes between two clock times", time_diff.generate),
    }
)


def make_problem(
    task: str,
    seed: int,
    index: int,
    *,
    difficulty: Difficulty = "medium",
    redundancy: float = 0.3,
    wordings: Wordings = "all",
) -> MarkedProblem:
    """Problem `index` of the corpus `seed` of a task.

    The same arguments always give the same problem. `redundancy` is the probability of a redundant step at each place
    where one can stand; it and `wordings` change neither the question nor the needed steps.
    """
    if task not in TASKS:
        raise ValueError(f"task {task!r} must be one of {', '.join(TASKS)}")
    solved = TASKS[task].generate(random.Random(f"{task}:{seed}:{index}"), difficulty)
    return marked(solved, random.Random(f"{task}:{seed}:{index}:marks"), redundancy, wordings)
