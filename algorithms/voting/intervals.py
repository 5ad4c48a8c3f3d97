"""Bootstrap over problems: means and paired differences with 95% percentile intervals.

Samples of one problem depend on each other, so whole problems are resampled. Values are one number for each problem.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from algorithms.voting.tally import FloatArray

RESAMPLES: Final = 1000
_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and the 2.5% and 97.5% percentiles of its bootstrap distribution."""

    mean: float
    low: float
    high: float


def resampled_means(values: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """The mean over problems in each resample: [P, ...] -> [resamples, ...]. One seed gives the same resamples."""
    if not len(values):
        raise ValueError("a bootstrap needs at least one problem, got none")
    flat = values.reshape(len(values), -1)
    parts = [weights @ flat for weights in _weights(len(values), resamples, seed)]
    return np.concatenate(parts).reshape(resamples, *values.shape[1:])


def bootstrap_mean(values: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean over problems, of [P]."""
    means = resampled_means(values, resamples=resamples, seed=seed)
    return interval(float(values.mean()), means)


def bootstrap_difference(
    values: FloatArray, reference: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of values - reference, paired by problem, [P] each."""
    if values.shape != reference.shape:
        raise ValueError(f"a paired difference needs the same problems, got {len(values)} and {len(reference)}")
    return bootstrap_mean(values - reference, resamples=resamples, seed=seed)


def interval(mean: float, draws: FloatArray) -> Interval:
    """The interval of a statistic, from its bootstrap draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def _weights(num_problems: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """The share of each problem in each resample, [batch, P]."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _BATCH):
        size = min(_BATCH, resamples - start)
        picks = generator.integers(num_problems, size=(size, num_problems))
        picks += np.arange(size)[:, None] * num_problems
        counts = np.bincount(picks.ravel(), minlength=size * num_problems).reshape(size, num_problems)
        yield counts / num_problems
