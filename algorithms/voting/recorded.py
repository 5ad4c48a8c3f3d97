"""Recorded samples of many problems: as lists for each problem, or as flat columns of millions of samples -> `Pools`.

Shape legend: S samples of all problems, P problems, N samples of the largest pool, K answer classes, C checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from algorithms.voting.pools import Pools
from algorithms.voting.tally import BoolArray, Candidates, FloatArray, IntArray

Verdicts: TypeAlias = NDArray[np.int8]

UNKNOWN: Final = -1


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recorded samples of one problem. `correct`: None where the grader could not tell. `tokens`: the cost."""

    candidates: Candidates
    correct: Sequence[bool | None]
    tokens: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Recorded samples as flat arrays [S], the samples of each problem in the order drawn.

    `problems`: the number of the problem, 0 to P - 1, each at least once. `classes`: equal for equal answers to a
    problem, -1 for a voteless sample. `correct`: 1 right, 0 wrong, -1 if the grader could not tell. `scores` and
    `logprobs`: NaN where missing. `tokens`: the cost. `checks` [S, C].
    """

    problems: IntArray
    classes: IntArray
    correct: Verdicts
    scores: FloatArray
    logprobs: FloatArray
    tokens: FloatArray
    checks: FloatArray


def pools_of_columns(columns: Columns) -> Pools:
    """Flat columns as pools, in O(S log S)."""
    order = np.argsort(columns.problems, kind="stable")
    problems = columns.problems[order]
    sizes = np.bincount(problems)
    place = np.arange(len(order)) - (sizes.cumsum() - sizes)[problems]
    shape = (len(sizes), int(sizes.max()))
    classes, is_right = _dense_classes(problems, columns.classes[order], columns.correct[order])

    def padded(values: FloatArray, fill: float) -> FloatArray:
        array = np.full((*shape, *values.shape[1:]), fill)
        array[problems, place] = values[order]
        return array

    spread = np.full(shape, -1, dtype=np.int64)
    spread[problems, place] = classes
    return Pools(
        spread,
        padded(columns.scores, np.nan),
        padded(columns.logprobs, np.nan),
        padded(columns.checks, 0.0),
        padded(columns.tokens, 1.0),
        np.arange(shape[1]) < sizes[:, None],
        is_right,
    )


def _dense_classes(problems: IntArray, classes: IntArray, correct: Verdicts) -> tuple[IntArray, BoolArray]:
    """Classes numbered from 0 in each problem by first appearance [S], and which of them are right [P, K]."""
    votes = np.flatnonzero(classes >= 0)
    dense = np.full(len(classes), -1, dtype=np.int64)
    num_problems = int(problems[-1]) + 1
    if not len(votes):
        return dense, np.zeros((num_problems, 1), dtype=np.bool_)
    keys = problems[votes] * (int(classes.max()) + 1) + classes[votes]
    _, first, member = np.unique(keys, return_index=True, return_inverse=True)
    by_appearance = np.argsort(first)  # samples are in the order of problems, so this keeps problems together
    owner = problems[votes[first[by_appearance]]]
    per_problem = np.bincount(owner, minlength=num_problems)
    numbers = np.empty(len(first), dtype=np.int64)
    numbers[by_appearance] = np.arange(len(first)) - (per_problem.cumsum() - per_problem)[owner]
    dense[votes] = numbers[member]
    graded = np.bincount(member, weights=correct[votes] != UNKNOWN)
    right = np.bincount(member, weights=correct[votes] == 1)
    is_right = np.zeros((num_problems, int(per_problem.max())), dtype=np.bool_)
    is_right[problems[votes[first]], numbers] = (graded > 0) & (2 * right >= graded)
    return dense, is_right


def pools_of(problems: Sequence[Recorded]) -> Pools:
    """The recorded problems as pools. Raises ValueError if a problem has no samples, or lists of different lengths."""
    if not problems:
        raise ValueError("a replay needs at least one recorded problem, got none")
    for row, problem in enumerate(problems):
        size = len(problem.correct)
        if not size:
            raise ValueError(f"problem {row} has no samples")
        if len(problem.candidates.classes) != size or (problem.tokens is not None and len(problem.tokens) != size):
            raise ValueError(
                f"problem {row} has {len(problem.candidates.classes)} answers, but {size} verdicts or token counts"
            )
    sizes = [len(problem.correct) for problem in problems]
    num_checks = max((len(each.candidates.checks[0]) for each in problems if each.candidates.checks), default=0)

    def column(values: Sequence[Sequence[float | None] | None], missing: float) -> FloatArray:
        return np.concatenate(
            [
                np.full(size, missing) if each is None else np.array([missing if v is None else v for v in each], float)
                for each, size in zip(values, sizes, strict=True)
            ]
        )

    checks = [
        np.asarray(each.candidates.checks, dtype=float) if each.candidates.checks else np.zeros((size, num_checks))
        for each, size in zip(problems, sizes, strict=True)
    ]
    return pools_of_columns(
        Columns(
            problems=np.repeat(np.arange(len(problems)), sizes),
            classes=column([each.candidates.classes for each in problems], -1).astype(np.int64),
            correct=column([each.correct for each in problems], UNKNOWN).astype(np.int8),
            scores=column([each.candidates.scores for each in problems], np.nan),
            logprobs=column([each.candidates.logprobs for each in problems], np.nan),
            tokens=column([each.tokens for each in problems], 1.0),
            checks=np.concatenate(checks),
        )
    )
