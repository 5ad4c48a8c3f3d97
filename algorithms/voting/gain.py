"""The expected gain of going on to the full budget, learned from replays of recorded pools.

    gain(state) = E[accuracy of the vote over the whole pool] - accuracy of the vote over what was seen

The state is a few features of the tally. The model is ridge regression on these features, their squares and their
products: small, convex, plain numbers. Its training data are prefixes of recorded pools in random orders
(`replay.fit_gain`). It is valid for the vote and the budget that it was learned with.

Shape legend: ... any leading axes, K classes, F state features, B basis functions.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.special import betainc, entr

from algorithms.voting.posterior import Posterior, class_probabilities
from algorithms.voting.tally import FloatArray, Tally

VERSION: Final = 1
_BATCH: Final = 8192

COUNT_STATE: Final = (
    "log_seen",
    "inverse_seen",
    "share_first",  # of the leading class among all samples
    "share_second",
    "classes_per_sample",
    "voteless",
    "entropy",  # of the shares of the classes
    "leads",  # the statistic of the rule `beta`
)
SCORE_STATE: Final = (
    "leads_weighted",  # the statistic of the rule `beta-weighted`
    "score_first",  # mean score of the leading class
    "score_share",  # share of the leading class in all scores
)
POSTERIOR_STATE: Final = ("probability_first", "probability_second", "probability_none", "probability_entropy")


@dataclass(frozen=True, slots=True)
class GainModel:
    """A fitted model for a vote (`method`) and a `budget` of samples.

    `means`, `scales` [F] standardise the state; `weights` [B] belong to `basis`. The model reads scores if
    `has_scores`, and a posterior if `has_posterior`.
    """

    method: str
    budget: int
    has_scores: bool
    has_posterior: bool
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        num_features = len(self.feature_names)
        if not len(self.means) == len(self.scales) == num_features or len(self.weights) != num_basis(num_features):
            raise ValueError(f"this gain model has the wrong number of weights for {num_features} features")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features of the state, in the order of axis F."""
        return state_names(has_scores=self.has_scores, has_posterior=self.has_posterior)

    def to_json(self) -> dict[str, Any]:
        """The model as plain JSON values."""
        return {
            "version": VERSION,
            "method": self.method,
            "budget": self.budget,
            "features": list(self.feature_names),
            "means": list(self.means),
            "scales": list(self.scales),
            "weights": list(self.weights),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "GainModel":
        """The model that `to_json` wrote. Raises ValueError if another version wrote it."""
        if data.get("version") != VERSION:
            raise ValueError(
                f"this gain model has version {data.get('version')}, but {VERSION} is needed: fit it again"
            )
        has_scores, has_posterior = SCORE_STATE[0] in data["features"], POSTERIOR_STATE[0] in data["features"]
        if tuple(data["features"]) != state_names(has_scores=has_scores, has_posterior=has_posterior):
            raise ValueError(f"this gain model has other features ({', '.join(data['features'])}): fit it again")
        return cls(
            method=data["method"],
            budget=data["budget"],
            has_scores=has_scores,
            has_posterior=has_posterior,
            means=tuple(map(float, data["means"])),
            scales=tuple(map(float, data["scales"])),
            weights=tuple(map(float, data["weights"])),
        )


def state_names(*, has_scores: bool, has_posterior: bool) -> tuple[str, ...]:
    """The names of the state features."""
    return (*COUNT_STATE, *(SCORE_STATE if has_scores else ()), *(POSTERIOR_STATE if has_posterior else ()))


def state_features(tally: Tally, *, has_scores: bool, posterior: Posterior | None) -> FloatArray:
    """The features of what was seen, [..., F]."""
    seen = np.maximum(tally.num_seen, 1).astype(np.float64)
    shares = tally.counts / seen[..., None]
    first, second = top_two(tally.counts)
    columns = [
        np.log(seen),
        1 / seen,
        first / seen,
        second / seen,
        tally.is_present.sum(axis=-1) / seen,
        1 - shares.sum(axis=-1),
        entr(shares).sum(axis=-1),
        betainc(second + 1, first + 1, 0.5),
    ]
    if has_scores:
        tally.require("score")
        best, runner_up = top_two(tally.scores)
        total = tally.scores.sum(axis=-1)
        counts = np.where(tally.scores >= best[..., None], tally.counts, 0.0).max(axis=-1, initial=0.0)
        columns += [
            betainc(runner_up + 1, best + 1, 0.5),
            best / np.maximum(counts, 1),
            best / np.where(total > 0, total, 1.0),
        ]
    if posterior is not None:
        probabilities = class_probabilities(posterior, tally)
        none = np.maximum(1 - probabilities.sum(axis=-1), 0.0)
        columns += [*top_two(probabilities), none, entr(probabilities).sum(axis=-1) + entr(none)]
    return np.stack([np.broadcast_to(column, seen.shape) for column in columns], axis=-1)


def top_two(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The largest and the second largest value on the last axis, [...]; 0 where there is none. Values are >= 0."""
    padded = np.concatenate([values, np.zeros((*values.shape[:-1], 2))], axis=-1)
    second, first = np.moveaxis(np.partition(padded, -2, axis=-1)[..., -2:], -1, 0)
    return first, second


def basis(state: FloatArray) -> FloatArray:
    """1, the features, and their products in pairs, [..., B]."""
    rows, columns = np.triu_indices(state.shape[-1])
    ones = np.ones((*state.shape[:-1], 1))
    return np.concatenate([ones, state, state[..., rows] * state[..., columns]], axis=-1)


def num_basis(num_features: int) -> int:
    """The length of `basis`."""
    return 1 + num_features + num_features * (num_features + 1) // 2


def expected_gain(model: GainModel, tally: Tally, posterior: Posterior | None = None) -> FloatArray:
    """The expected gain in accuracy of going on to the full budget, [...]; 0 once it is used up."""
    state = state_features(tally, has_scores=model.has_scores, posterior=posterior if model.has_posterior else None)
    gains = basis((state - np.array(model.means)) / np.array(model.scales)) @ np.array(model.weights)
    return np.where(tally.num_seen >= model.budget, 0.0, gains)


class GainSums:
    """Collects states and gains of any number of replays, as sums for ridge regression: memory stays constant.

    The first batch sets the standardisation, so it must hold all kinds of states, such as one order of all problems.
    """

    def __init__(self) -> None:
        self.means: FloatArray | None = None
        self.scales: FloatArray | None = None
        self.gram: FloatArray | None = None
        self.moment: FloatArray | None = None

    def add(self, state: FloatArray, gains: FloatArray) -> None:
        """Add states [M, F] and the gains observed from them, [M]."""
        if self.means is None or self.scales is None or self.gram is None or self.moment is None:
            self.means = state.mean(axis=0)
            spread = state.std(axis=0)
            self.scales = np.where(spread < 1e-9, 1.0, spread)
            self.gram = np.zeros((num_basis(state.shape[1]),) * 2)
            self.moment = np.zeros(len(self.gram))
        for start in range(0, len(state), _BATCH):
            terms = basis((state[start : start + _BATCH] - self.means) / self.scales)
            self.gram += terms.T @ terms
            self.moment += terms.T @ gains[start : start + _BATCH]

    def fit(
        self, method: str, budget: int, *, has_scores: bool, has_posterior: bool, penalty: float = 10.0
    ) -> GainModel:
        """The model of least squares with an L2 penalty on all weights but the constant."""
        if self.means is None or self.scales is None or self.gram is None or self.moment is None:
            raise ValueError("a gain model needs replays to learn from, got none")
        penalties = np.full(len(self.gram), penalty)
        penalties[0] = 1e-6
        weights = np.linalg.solve(self.gram + np.diag(penalties), self.moment)
        return GainModel(
            method,
            budget,
            has_scores,
            has_posterior,
            tuple(self.means.tolist()),
            tuple(self.scales.tolist()),
            tuple(weights.tolist()),
        )
