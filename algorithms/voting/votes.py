"""Votes over answer classes: majority, weighted by likelihood, and weighted by a ranker.

Adaptive Self-Consistency (ASC, arXiv 2312.12832): a sample counts as much as the ranker trusts it. The paper's release
has four variants in code, without a record of which one was published; METHODS holds all.

Ties. Two classes are tied if their totals differ by at most `TIE` of the largest total. Counts are whole numbers, so
the rule is exact for them up to 10**9 samples; totals of weights that differ only by the order of summation differ by
far less, about 1e-16 for each sample. The answer given is the tied class that appeared first. The accuracy reported is
the expectation: 1 / (number of tied classes) for each tied class that is right.
"""

from collections.abc import Callable, Collection
from typing import Final, TypeAlias

import numpy as np

from algorithms.voting.posterior import Posterior, class_probabilities
from algorithms.voting.tally import BoolArray, Candidates, FloatArray, Tally, count_of

TIE: Final = 1e-9

Totals: TypeAlias = Callable[[Tally, Posterior | None], FloatArray]
"""The total of each class, [..., K]; -inf for a class that cannot win."""


def _count(tally: Tally, _: Posterior | None) -> FloatArray:
    return tally.counts


def _probability(tally: Tally, _: Posterior | None) -> FloatArray:
    tally.require("log-probability")
    return tally.probabilities


def _score(tally: Tally, _: Posterior | None) -> FloatArray:
    tally.require("score")
    return tally.scores


def _count_and_score(tally: Tally, _: Posterior | None) -> FloatArray:
    tally.require("score")
    return tally.counts + tally.scores


def _count_and_two_scores(tally: Tally, _: Posterior | None) -> FloatArray:
    tally.require("score")
    return tally.counts + 2 * tally.scores


def _posterior(tally: Tally, posterior: Posterior | None) -> FloatArray:
    if posterior is None:
        raise ValueError("the vote 'posterior' needs a fitted model: pass posterior=fit_posterior(...)")
    return class_probabilities(posterior, tally)


def _first(tally: Tally, _: Posterior | None) -> FloatArray:
    return np.where(tally.is_first, 1.0, -np.inf)


def _each_class(tally: Tally, _: Posterior | None) -> FloatArray:
    return tally.is_present.astype(np.float64)


METHODS: Final[dict[str, Totals]] = {
    "sc": _count,  # self-consistency: a sample weighs 1
    "ws": _probability,  # weighted self-consistency: exp(mean log p)
    "asc": _score,  # s
    "asc+1": _count_and_score,  # 1 + s
    "asc+2": _count_and_two_scores,  # 1 + 2s
    "posterior": _posterior,  # the probability that the class is right
    "first": _first,  # lower bound: one sample
    "oracle": _each_class,  # upper bound: right if any class is right
}


def tally_totals(method: str, tally: Tally, posterior: Posterior | None = None) -> FloatArray:
    """The totals of the classes under a method of METHODS, [..., K]."""
    if method not in METHODS:
        raise ValueError(f"no vote is called {method!r}; choose from {', '.join(METHODS)}")
    return METHODS[method](tally, posterior)


def is_winner(totals: FloatArray, is_present: BoolArray) -> BoolArray:
    """The classes tied for the largest total, [..., K]; none where no class can win."""
    can_win = is_present & (totals > -np.inf)
    best = np.where(can_win, totals, -np.inf).max(axis=-1, keepdims=True, initial=-np.inf)
    return np.asarray(can_win & (totals >= np.where(best > 0, best * (1 - TIE), best)), dtype=np.bool_)


def tally_accuracy(
    method: str, tally: Tally, is_right: FloatArray | BoolArray, posterior: Posterior | None = None
) -> FloatArray:
    """The expected accuracy of a vote, [...], given which classes are right, [..., K]. 0 where nobody votes."""
    winners = is_winner(tally_totals(method, tally, posterior), tally.is_present)
    hits = (winners * is_right).sum(axis=-1)
    if method == "oracle":
        return np.asarray(np.minimum(hits, 1.0), dtype=np.float64)
    return np.asarray(hits / np.maximum(winners.sum(axis=-1), 1), dtype=np.float64)


def class_totals(method: str, candidates: Candidates, posterior: Posterior | None = None) -> dict[int, float]:
    """The total of each class of one question, in order of first appearance. {} if nobody votes."""
    count = count_of(candidates)
    totals = tally_totals(method, count.tally(), posterior)
    return {number: float(totals[at]) for number, at in count.numbers.items() if totals[at] > -np.inf}


def winners(method: str, candidates: Candidates, posterior: Posterior | None = None) -> tuple[int, ...]:
    """The classes tied for the largest total, the earliest first. The first one is the answer; () if nobody votes."""
    count = count_of(candidates)
    tally = count.tally()
    is_tied = is_winner(tally_totals(method, tally, posterior), tally.is_present)
    return tuple(number for number, position in count.numbers.items() if is_tied[position])


def expected_accuracy(
    method: str, candidates: Candidates, right: Collection[int], posterior: Posterior | None = None
) -> float:
    """The expected accuracy of the vote on one question, given the classes that are right."""
    count = count_of(candidates)
    is_right = np.array([number in right for number in count.numbers], dtype=np.bool_)
    return float(tally_accuracy(method, count.tally(), is_right, posterior))
