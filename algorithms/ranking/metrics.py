"""How good a ranker's scores are: pair accuracy, AUC, calibration.

All take flat arrays over samples: scores [N] in (0, 1), right [N] as bool, problems [N] as integers. Samples whose
grade is unknown are the caller's to leave out.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[Any]

NUM_BINS: Final = 15


@dataclass(frozen=True)
class PairCounts:
    """Pairs of a right and a wrong sample of one problem, by problem [P]: those ranked right, and all.

    A pair with equal scores counts as half ranked right.
    """

    won: Floats
    pairs: Floats

    @property
    def accuracy(self) -> float:
        """The share of all pairs in which the right sample has the higher score. NaN without a pair."""
        return float(self.won.sum() / self.pairs.sum()) if self.pairs.sum() else float("nan")


def count_pairs(scores: Floats, right: Bools, problems: Ints) -> PairCounts:
    """The pairs of every problem that has right and wrong samples, in O(N log N)."""
    won, pairs = [], []
    order = np.argsort(problems, kind="stable")
    edges = np.flatnonzero(np.diff(problems[order])) + 1
    for mine in np.split(order, edges):
        positive, negative = scores[mine][right[mine]], np.sort(scores[mine][~right[mine]])
        if len(positive) and len(negative):
            below = np.searchsorted(negative, positive, side="left")
            upto = np.searchsorted(negative, positive, side="right")
            won.append(float((below + upto).sum()) / 2)
            pairs.append(float(len(positive) * len(negative)))
    return PairCounts(np.array(won), np.array(pairs))


def area_under_curve(scores: Floats, right: Bools) -> float:
    """Probability that a random right sample scores above a random wrong one, whatever their problems."""
    return count_pairs(scores, right, np.zeros(len(scores), dtype=np.int64)).accuracy


@dataclass(frozen=True)
class Reliability:
    """Samples in bins of equal numbers by score: mean score, share of right samples, and number, by bin [B]."""

    scores: Floats
    right: Floats
    counts: Ints

    @property
    def expected_error(self) -> float:
        """The expected calibration error: mean distance of score and share of right samples, weighted by numbers."""
        return float(np.average(np.abs(self.scores - self.right), weights=self.counts))


def reliability(scores: Floats, right: Bools | Floats, num_bins: int = NUM_BINS) -> Reliability:
    """Bins with equal numbers of samples: with equal widths, most would be nearly empty. Raises ValueError for none."""
    if not len(scores):
        raise ValueError("calibration needs at least one sample, got none")
    bins = [part for part in np.array_split(np.argsort(scores, kind="stable"), num_bins) if len(part)]
    return Reliability(
        np.array([scores[part].mean() for part in bins]),
        np.array([right[part].mean() for part in bins]),
        np.array([len(part) for part in bins]),
    )
