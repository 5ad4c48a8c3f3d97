"""Rules that say when enough samples of a question are drawn: pure functions of the tally of what was seen.

    fixed          a fixed number of samples
    beta           Adaptive-Consistency (arXiv 2305.11860): the leader very probably beats the runner-up
    window         Early-Stopping Self-Consistency (ESC, arXiv 2401.10480): all samples of a window agree
    cges           Confidence-Guided Early Stopping (arXiv 2511.02603): one answer holds most of the posterior
    beta-weighted  beta with the ranker's scores as fractional counts
    gain           ours, in `gain`: going on to the full budget is not worth its price

A rule computes one number from a tally, its `statistic`, and compares it with its `threshold`. The comparison is
separate, so a replay computes the statistic once and tries any number of thresholds.

Draw `wave` samples at a time and ask the rule after each wave: `rule(tally)` is True to stop. Below `minimum` samples
and inside a wave it goes on; at `maximum` it stops.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import betainc

from algorithms.voting.gain import GainModel, expected_gain
from algorithms.voting.posterior import Posterior
from algorithms.voting.tally import BoolArray, FloatArray, IntArray, Tally


@dataclass(frozen=True, slots=True)
class Rule(ABC):
    """What all rules share. Raises ValueError if the numbers contradict each other."""

    threshold: float
    minimum: int = 1
    maximum: int = 16
    wave: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(f"1 <= minimum <= maximum is needed, got {self.minimum} and {self.maximum}")
        if self.wave < 1:
            raise ValueError(f"wave={self.wave} must be at least 1")
        self.check_threshold(self.threshold)

    @abstractmethod
    def statistic(self, tally: Tally) -> FloatArray:
        """The number that the rule compares with its threshold, [...]."""

    @classmethod
    @abstractmethod
    def check_threshold(cls, threshold: float) -> None:
        """Raise ValueError for a threshold that makes no sense."""

    def is_decided(self, statistic: FloatArray, threshold: float) -> BoolArray:
        """Whether the statistic says to stop, [...]."""
        return np.asarray(statistic >= threshold)

    def wave_at(self, threshold: float) -> int:
        """The size of a wave."""
        return self.wave

    def stops(self, statistic: FloatArray, num_seen: IntArray, threshold: float) -> BoolArray:
        """Whether to stop, [...], given the statistic of the tally."""
        is_asked = (num_seen >= self.minimum) & (num_seen % self.wave_at(threshold) == 0)
        return np.asarray((num_seen >= self.maximum) | (is_asked & self.is_decided(statistic, threshold)))

    def __call__(self, tally: Tally) -> bool:
        """Whether to stop sampling the question of this tally."""
        return bool(self.stops(self.statistic(tally), tally.num_seen, self.threshold))

    def num_to_draw(self, num_seen: int) -> int:
        """How many samples to draw before the rule can stop: to the end of the wave, or more below `minimum`."""
        wave = self.wave_at(self.threshold)
        waves = max(num_seen // wave + 1, -(-self.minimum // wave))
        return max(min(waves * wave, self.maximum) - num_seen, 0)


class _Probability(Rule):
    """A rule whose threshold is a probability."""

    __slots__ = ()

    @classmethod
    def check_threshold(cls, threshold: float) -> None:
        """Between 0 and 1."""
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold} must be a probability, from 0 to 1")


class _Samples(Rule):
    """A rule whose threshold is a whole number of samples."""

    __slots__ = ()

    @classmethod
    def check_threshold(cls, threshold: float) -> None:
        """A whole number from 1."""
        if threshold < 1 or threshold != int(threshold):
            raise ValueError(f"threshold={threshold} must be a whole number of samples, at least 1")


@dataclass(frozen=True, slots=True)
class Fixed(_Samples):
    """Stop after `threshold` samples."""

    threshold: float = 16

    def statistic(self, tally: Tally) -> FloatArray:
        """The number of samples."""
        return tally.num_seen.astype(np.float64)


@dataclass(frozen=True, slots=True)
class Beta(_Probability):
    """Stop when the leader beats the runner-up with probability `threshold` under Beta(v1 + 1, v2 + 1).

    v1 and v2 are the counts of the two largest classes, as in arXiv 2305.11860, Eq. 2. Voteless samples do not count.
    """

    threshold: float = 0.95

    def statistic(self, tally: Tally) -> FloatArray:
        """P(share of the leader > 1/2)."""
        return leads_with_probability(tally.counts)


@dataclass(frozen=True, slots=True)
class BetaWeighted(_Probability):
    """As `Beta`, with the sums of the ranker's scores for v1 and v2."""

    threshold: float = 0.95

    def statistic(self, tally: Tally) -> FloatArray:
        """P(share of the leader > 1/2), from fractional counts."""
        tally.require("score")
        return leads_with_probability(tally.scores)


@dataclass(frozen=True, slots=True)
class Window(_Samples):
    """Stop when all samples of a window agree. `threshold` is the size of the window, and of the wave.

    A window with a voteless sample never agrees.
    """

    threshold: float = 4

    def statistic(self, tally: Tally) -> FloatArray:
        """How many of the last samples agree."""
        return tally.run.astype(np.float64)

    def wave_at(self, threshold: float) -> int:
        """The windows are the waves."""
        return int(threshold)


@dataclass(frozen=True, slots=True)
class Cges(_Probability):
    """Stop when one answer has posterior mass `threshold`, with a confidence s for each sample.

    Each sample states the right answer with probability s, and one of the K - 1 others with probability
    (1 - s) / (K - 1). The prior over the K answers is uniform. K is not known for open answers. Our choice: the
    answers seen so far and one that was not seen. So a single sample gives its answer the mass s.
    """

    threshold: float = 0.95

    def statistic(self, tally: Tally) -> FloatArray:
        """The largest posterior mass."""
        tally.require("score")
        return np.asarray(confidence_posterior(tally).max(axis=-1, initial=0.0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Gain(Rule):
    """Stop when the expected gain of going on to `maximum` samples is below threshold * remaining ** exponent.

    The threshold is a price in accuracy. With exponent 1, going on costs all remaining samples. But the rule may stop
    again before the budget is used up, so going on costs less: on MATH samples with simulated scores, exponents from
    0 to 0.5 reach a higher accuracy than 1 below half of the budget, and the same above. `model` is learned from
    replays with the same `maximum`, by `replay.fit_gain`; `posterior` is the one it was learned with.
    """

    threshold: float = 0.002
    exponent: float = 0.5
    model: GainModel | None = None
    posterior: Posterior | None = None

    def __post_init__(self) -> None:
        super(Gain, self).__post_init__()
        if not 0 <= self.exponent <= 1:
            raise ValueError(f"exponent={self.exponent} must be from 0 to 1")
        if self.model is None:
            raise ValueError("the rule 'gain' needs a model: pass model=fit_gain(...)")
        if self.model.budget != self.maximum:
            raise ValueError(
                f"this gain model was learned for a budget of {self.model.budget} samples, but maximum is "
                f"{self.maximum}: fit it again or set maximum={self.model.budget}"
            )
        if self.model.has_posterior and self.posterior is None:
            raise ValueError("this gain model reads a posterior: pass posterior=")

    @classmethod
    def check_threshold(cls, threshold: float) -> None:
        """Any finite price; a negative one pays for samples that do harm."""
        if not np.isfinite(threshold):
            raise ValueError(f"threshold={threshold} must be a finite price")

    def statistic(self, tally: Tally) -> FloatArray:
        """The highest price at which going on still pays."""
        assert self.model is not None
        remaining = np.maximum(self.maximum - tally.num_seen, 1).astype(np.float64)
        return np.asarray(expected_gain(self.model, tally, self.posterior) / remaining**self.exponent)

    def is_decided(self, statistic: FloatArray, threshold: float) -> BoolArray:
        """Stop below the price."""
        return np.asarray(statistic < threshold)


RULES: Final[dict[str, type[Rule]]] = {
    "fixed": Fixed,
    "beta": Beta,
    "window": Window,
    "cges": Cges,
    "beta-weighted": BetaWeighted,
    "gain": Gain,
}


def leads_with_probability(values: FloatArray) -> FloatArray:
    """P(x > 1/2) for x ~ Beta(v1 + 1, v2 + 1), where v1 >= v2 are the two largest values on the last axis."""
    padded = np.concatenate([values, np.zeros((*values.shape[:-1], 2))], axis=-1)
    second, first = np.moveaxis(np.partition(padded, -2, axis=-1)[..., -2:], -1, 0)
    # 1 - I_{1/2}(a, b) = I_{1/2}(b, a)
    return np.asarray(betainc(second + 1, first + 1, 0.5), dtype=np.float64)


def confidence_posterior(tally: Tally) -> FloatArray:
    """The posterior mass of each class under `Cges`, [..., K]; the rest belongs to the answer not seen.

    Against the answer not seen, each sample of a class multiplies its odds by s / (1 - s) times K - 1, where K - 1 is
    the number of classes seen.
    """
    num_present = np.maximum(tally.is_present.sum(axis=-1, keepdims=True), 1)
    utilities = np.where(tally.is_present, tally.log_odds + tally.counts * np.log(num_present), -np.inf)
    top = np.maximum(utilities.max(axis=-1, keepdims=True, initial=-np.inf), 0.0)
    exponentials = np.exp(utilities - top)
    return np.asarray(exponentials / (np.exp(-top) + exponentials.sum(axis=-1, keepdims=True)), dtype=np.float64)
