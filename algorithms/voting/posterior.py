"""The probability that each answer class of a question is right, by conditional logistic regression.

    P(class c is right) = exp(w . x_c) / (1 + sum_k exp(w . x_k))

The 1 stands for the outcome "none of these is right", so the probabilities of the classes sum to less than 1. The
features x are in `features`. Fitted by L-BFGS with the analytic gradient and an L2 penalty on standardised features.
To be calibrated at every number of samples, fit on tallies of several sizes, such as those of `pools.prefix_tally`.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from algorithms.voting.features import class_features, feature_names
from algorithms.voting.tally import BoolArray, FloatArray, Tally

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Posterior:
    """A fitted model: a weight for each feature. `has_scores` and `num_checks` say what it must be given."""

    weights: tuple[float, ...]
    has_scores: bool
    num_checks: int = 0

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.feature_names):
            raise ValueError(f"{len(self.weights)} weights for {len(self.feature_names)} features")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The name of the feature that each weight belongs to."""
        return feature_names(has_scores=self.has_scores, num_checks=self.num_checks)

    def to_json(self) -> dict[str, Any]:
        """The model as plain JSON values."""
        return {
            "version": VERSION,
            "has_scores": self.has_scores,
            "num_checks": self.num_checks,
            "weights": dict(zip(self.feature_names, self.weights, strict=True)),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Posterior":
        """The model that `to_json` wrote. Raises ValueError if another version wrote it."""
        if data.get("version") != VERSION:
            raise ValueError(f"this posterior has version {data.get('version')}, but {VERSION} is needed: fit it again")
        names = feature_names(has_scores=data["has_scores"], num_checks=data["num_checks"])
        if set(names) != set(data["weights"]):
            unknown = sorted(set(names) ^ set(data["weights"]))
            raise ValueError(f"this posterior has other features ({', '.join(unknown)}): fit it again")
        return cls(tuple(float(data["weights"][name]) for name in names), data["has_scores"], data["num_checks"])


def class_probabilities(model: Posterior, tally: Tally) -> FloatArray:
    """The probability that each class is right, [..., K]; 0 for a class without samples."""
    features = class_features(tally, has_scores=model.has_scores, num_checks=model.num_checks)
    utilities = np.where(tally.is_present, features @ np.array(model.weights), -np.inf)
    top = np.maximum(utilities.max(axis=-1, keepdims=True, initial=-np.inf), 0.0)
    exponentials = np.exp(utilities - top)
    return np.asarray(exponentials / (np.exp(-top) + exponentials.sum(axis=-1, keepdims=True)), dtype=np.float64)


class Loss(NamedTuple):
    """The value of the loss, and its gradient [F]."""

    value: float
    gradient: FloatArray


def negative_log_likelihood(
    weights: FloatArray, features: FloatArray, is_present: BoolArray, is_right: BoolArray
) -> Loss:
    """Of the right outcomes of Q questions: features [Q, K, F], is_present and is_right [Q, K].

    A question with several right classes counts the sum of their probabilities; one without any, that of "none".
    """
    utilities = np.where(is_present, features @ weights, -np.inf)
    utilities = np.concatenate([utilities, np.zeros((len(utilities), 1))], axis=1)
    right = np.concatenate([is_right & is_present, ~(is_right & is_present).any(axis=1, keepdims=True)], axis=1)
    right_utilities = np.where(right, utilities, -np.inf)
    log_all = logsumexp(utilities, axis=1, keepdims=True)
    log_right = logsumexp(right_utilities, axis=1, keepdims=True)
    excess = np.exp(utilities - log_all) - np.exp(right_utilities - log_right)
    gradient = np.einsum("qk,qkf->f", excess[:, :-1], features)
    return Loss(float((log_all - log_right).sum()), gradient)


def fit_posterior(
    tally: Tally, is_right: BoolArray, *, has_scores: bool = True, num_checks: int = 0, penalty: float = 1.0
) -> Posterior:
    """Fit on questions with any leading axes; tally and is_right are [..., K].

    `penalty`: half the squared length of the weights of standardised features is multiplied by it; the weight of
    the constant "one" is free.
    """
    features = class_features(tally, has_scores=has_scores, num_checks=num_checks)
    num_classes, num_features = features.shape[-2:]
    features = features.reshape(-1, num_classes, num_features)
    present = tally.is_present.reshape(-1, num_classes)
    right = np.asarray(is_right, dtype=np.bool_).reshape(-1, num_classes)
    if not present.any():
        raise ValueError("posterior needs at least one question with a parsable answer, got none")
    mean = features[present].mean(axis=0)
    spread = features[present].std(axis=0)
    mean[0], spread[0] = 0.0, 1.0  # the constant stays as it is
    spread[spread < 1e-9] = np.inf  # a feature that never varies gets weight 0
    scaled = np.where(present[..., None], (features - mean) / spread, 0.0)
    penalties = np.full(num_features, penalty)
    penalties[0] = 0.0

    def objective(weights: FloatArray) -> Loss:
        loss = negative_log_likelihood(weights, scaled, present, right)
        return Loss(loss.value + 0.5 * float(penalties @ weights**2), loss.gradient + penalties * weights)

    found = minimize(objective, np.zeros(num_features), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    weights = found.x / spread
    weights[0] -= float(weights[1:] @ mean[1:])
    return Posterior(tuple(float(weight) for weight in weights), has_scores, num_checks)
