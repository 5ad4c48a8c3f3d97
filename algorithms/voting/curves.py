"""Accuracy against samples for one rule, with intervals, and the threshold for a wanted accuracy.

Shape legend: P problems, T thresholds, R resamples.
"""

from dataclasses import dataclass

import numpy as np

from algorithms.voting.intervals import RESAMPLES, Interval, interval, resampled_means
from algorithms.voting.tally import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Curve:
    """What a rule used and reached at each threshold: `num_samples`, `num_tokens`, `accuracy` [P, T]."""

    thresholds: tuple[float, ...]
    num_samples: FloatArray
    num_tokens: FloatArray
    accuracy: FloatArray


@dataclass(frozen=True, slots=True)
class Point:
    """One threshold of a curve: means over problems with 95% intervals."""

    threshold: float
    num_samples: Interval
    num_tokens: Interval
    accuracy: Interval


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The cheapest threshold that reaches a wanted accuracy, and how sure that is.

    `chosen`: the thresholds chosen in the resamples, as the lowest and highest of the middle 95%. `reached`: the share
    of resamples in which the suggested threshold itself reaches the wanted accuracy. `reachable`: the share of
    resamples in which any threshold does.
    """

    point: Point
    chosen: tuple[float, float]
    reached: float
    reachable: float


def points(curve: Curve, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Point]:
    """The curve's means with bootstrap intervals over problems, in the order of its thresholds."""
    columns = [
        (values.mean(axis=0), resampled_means(values, resamples=resamples, seed=seed))
        for values in (curve.num_samples, curve.num_tokens, curve.accuracy)
    ]
    return [
        Point(threshold, *(interval(float(means[index]), draws[:, index]) for means, draws in columns))
        for index, threshold in enumerate(curve.thresholds)
    ]


def suggest(
    curve: Curve,
    wanted_accuracy: float,
    *,
    reference: FloatArray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Suggestion:
    """The threshold with the fewest samples among those whose mean accuracy reaches `wanted_accuracy`.

    With a `reference` [P], such as the accuracy of the vote over whole pools, the wanted accuracy is a difference from
    it: -0.0025 allows a loss of a quarter of a point. Pairing by problem makes the choice far more certain. Choose on
    validation problems and report accuracy on others: the accuracy at the chosen point is optimistic. Raises
    ValueError if no threshold reaches the wanted accuracy.
    """
    reached = curve.accuracy if reference is None else curve.accuracy - reference[:, None]
    best = float(reached.mean(axis=0).max())
    if best < wanted_accuracy:
        raise ValueError(f"no threshold reaches an accuracy of {wanted_accuracy:.4f}; the best one reaches {best:.4f}")
    accuracy = resampled_means(reached, resamples=resamples, seed=seed)
    samples = resampled_means(curve.num_samples, resamples=resamples, seed=seed)
    (index,) = _cheapest(reached.mean(axis=0)[None], curve.num_samples.mean(axis=0)[None], wanted_accuracy)
    is_reachable = accuracy.max(axis=1) >= wanted_accuracy
    again = _cheapest(accuracy[is_reachable], samples[is_reachable], wanted_accuracy)
    chosen = np.sort(np.array(curve.thresholds)[again]) if len(again) else np.array([curve.thresholds[index]])
    cut = int(0.025 * len(chosen))
    return Suggestion(
        point=points(curve, resamples=resamples, seed=seed)[index],
        chosen=(float(chosen[cut]), float(chosen[len(chosen) - 1 - cut])),
        reached=float((accuracy[:, index] >= wanted_accuracy).mean()),
        reachable=float(is_reachable.mean()),
    )


def _cheapest(accuracy: FloatArray, samples: FloatArray, wanted_accuracy: float) -> IntArray:
    """The index of the cheapest sufficient threshold in each row of [R, T]."""
    return np.asarray(np.where(accuracy >= wanted_accuracy, samples, np.inf).argmin(axis=1), dtype=np.int64)
