"""The thresholds at which each stopping rule is replayed: enough for a curve from one sample to the whole pool."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from algorithms.voting.gain import GainModel
from algorithms.voting.posterior import Posterior
from algorithms.voting.stopping import RULES, Gain, Rule


@dataclass(frozen=True, slots=True)
class Sweep:
    """A rule and the thresholds to try. The rule's own threshold is ignored."""

    rule: Rule
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise ValueError("a sweep needs at least one threshold, got none")
        for threshold in self.thresholds:
            self.rule.check_threshold(threshold)


def _counts(maximum: int) -> tuple[float, ...]:
    return tuple(float(number) for number in range(1, maximum + 1))


def _probabilities(_: int) -> tuple[float, ...]:
    """Denser towards 1, where rules such as `beta` decide late."""
    low = np.linspace(0.3, 0.9, 25)[:-1]
    return tuple(np.concatenate([low, 1 - np.geomspace(0.1, 1e-4, 32)]).round(6).tolist())


def _prices(_: int) -> tuple[float, ...]:
    """Prices of a sample, from stopping at once to never stopping before the budget."""
    return (-1.0, *np.concatenate([-np.geomspace(0.01, 1e-5, 8), [0.0], np.geomspace(1e-6, 0.1, 50)]).tolist())


THRESHOLDS: Final[dict[str, Callable[[int], tuple[float, ...]]]] = {
    "fixed": _counts,
    "beta": _probabilities,
    "window": _counts,
    "cges": _probabilities,
    "beta-weighted": _probabilities,
    "gain": _prices,
}


def sweeps_for(
    rules: Iterable[str],
    maximum: int,
    minimum: int = 1,
    wave: int = 1,
    gain: GainModel | None = None,
    posterior: Posterior | None = None,
) -> dict[str, Sweep]:
    """A sweep of each of these rules of RULES, for pools of `maximum` samples."""
    found = {}
    for name in rules:
        if name not in RULES:
            raise ValueError(f"no stopping rule is called {name!r}; choose from {', '.join(RULES)}")
        thresholds = THRESHOLDS[name](maximum)
        common: dict[str, Any] = {"threshold": thresholds[-1], "minimum": minimum, "maximum": maximum, "wave": wave}
        rule = Gain(**common, model=gain, posterior=posterior) if name == "gain" else RULES[name](**common)
        found[name] = Sweep(rule, thresholds)
    return found
