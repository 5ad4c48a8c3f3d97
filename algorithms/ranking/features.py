"""What a boosted ranker knows of a solution: numbers, by name, in groups that an ablation can leave out.

No feature compares a solution with the other samples of its question. Agreement is what the vote measures. A feature
that measures it too (the distance from the other samples' mean length, say) lifts pair accuracy and not the vote.
"""

from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from algorithms.ranking.answer_form import answer_facts, asked_facts
from algorithms.ranking.solutions import Solution
from algorithms.ranking.text_shape import text_facts
from algorithms.step_checks import check, summary

Facts = dict[str, float]


def _check_facts(solution: Solution) -> Facts:
    return {name: float(count) for name, count in summary(check(solution.text, solution.question)).items()}


def _answer_facts(solution: Solution) -> Facts:
    return answer_facts(solution.question, solution.text, solution.answer)


def _asked_facts(solution: Solution) -> Facts:
    return asked_facts(solution.question)


def _text_facts(solution: Solution) -> Facts:
    return text_facts(solution.question, solution.text)


GROUPS: Final = {"checks": _check_facts, "answer": _answer_facts, "asked": _asked_facts, "text": _text_facts}


@cache
def _names(group: str) -> tuple[str, ...]:
    return tuple(GROUPS[group](Solution("", "", None)))  # the same names for every solution


def feature_names(groups: Sequence[str] = tuple(GROUPS)) -> tuple[str, ...]:
    """The names of the features in some groups, in the order of `feature_matrix`."""
    return tuple(f"{group}.{name}" for group in groups for name in _names(group))


def feature_matrix(solutions: Sequence[Solution], groups: Sequence[str] = tuple(GROUPS)) -> NDArray[np.float32]:
    """The features of some solutions [N, F]. NaN where a feature does not apply."""
    rows = [[value for group in groups for value in GROUPS[group](each).values()] for each in solutions]
    return np.array(rows, dtype=np.float32).reshape(len(solutions), len(feature_names(groups)))
