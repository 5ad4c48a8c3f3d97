"""Two evaluations of the same problems: a paired difference, its interval, and a permutation test.

The test flips the sign of each problem's difference at random: under the hypothesis that both are equally good, each
sign is as likely as the other. For one sample a problem this is McNemar's test.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from algorithms.voting.intervals import Interval, bootstrap_difference, bootstrap_mean
from algorithms.voting.tally import FloatArray

PERMUTATIONS: Final = 9999
FEWEST_LEVELS: Final = 3


@dataclass(frozen=True, slots=True)
class Comparison:
    """Accuracy of A and of B, and of B - A by problem; on how many problems each is better; the two-sided p-value."""

    first: Interval
    second: Interval
    difference: Interval
    better: int
    worse: int
    p_value: float


def compare(first: FloatArray, second: FloatArray, *, seed: int = 0) -> Comparison:
    """Compare the accuracies of two evaluations, [P] each, in the same order of problems."""
    from scipy.stats import permutation_test

    difference = second - first
    if difference.any():
        found = permutation_test(
            (difference,),
            lambda values, axis: np.mean(values, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=PERMUTATIONS,
            batch=max(1, 10_000_000 // len(difference)),
            rng=np.random.default_rng(seed),
        )
        p_value = float(found.pvalue)
    else:
        p_value = 1.0
    return Comparison(
        bootstrap_mean(first, seed=seed),
        bootstrap_mean(second, seed=seed),
        bootstrap_difference(second, first, seed=seed),
        int((difference > 0).sum()),
        int((difference < 0).sum()),
        p_value,
    )


def correlation(perplexity: FloatArray, accuracy: FloatArray) -> dict[str, Any] | None:
    """Pearson's r of the perplexity and the accuracy of several evaluations, with its 95% interval.

    SPIRIT (arXiv 2502.13260) reports it over levels of refinement. None for fewer than three levels, or if one of the
    two does not vary.
    """
    from scipy.stats import pearsonr

    if len(perplexity) < FEWEST_LEVELS or np.ptp(perplexity) == 0 or np.ptp(accuracy) == 0:
        return None
    found = pearsonr(perplexity, accuracy)
    interval = found.confidence_interval() if len(perplexity) > FEWEST_LEVELS else None
    return {
        "r": float(found.statistic),
        "low": None if interval is None else float(interval.low),
        "high": None if interval is None else float(interval.high),
        "levels": len(perplexity),
    }
