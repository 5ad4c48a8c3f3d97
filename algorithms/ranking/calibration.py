"""From a ranker's raw outputs to probabilities: a smooth, increasing map, fitted on validation problems.

Isotonic regression makes steps, which tie samples that the ranker told apart. So this is beta calibration (Kull, Silva
Filho and Flach, AISTATS 2017): logistic regression on log s and -log(1 - s), whose coefficients are positive.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EDGE: Final = 1e-6  # scores stay inside (0, 1)
LEAST: Final = 1e-3  # a coefficient of zero would tie scores


@dataclass(frozen=True, slots=True)
class Calibration:
    """logit(probability) = a log s - b log(1 - s) + c for a raw score s in (0, 1). The default changes nothing."""

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0

    def __call__(self, scores: Floats) -> Floats:
        """Calibrated scores, each in (0, 1), in the order of the raw ones."""
        inside = np.clip(scores, EDGE, 1 - EDGE)
        logits = self.a * np.log(inside) - self.b * np.log1p(-inside) + self.c
        return np.clip(1 / (1 + np.exp(-logits)), EDGE, 1 - EDGE)


def fit_calibration(scores: Floats, right: NDArray[np.bool_]) -> Calibration:
    """Fit on samples that did not train the ranker. Raises ValueError unless some are right and some are wrong."""
    from scipy.optimize import minimize

    if right.all() or not right.any():
        raise ValueError(f"calibration needs right and wrong samples, got {int(right.sum())} right of {len(right)}")
    inside = np.clip(scores, EDGE, 1 - EDGE)
    inputs = np.stack([np.log(inside), -np.log1p(-inside), np.ones_like(inside)], axis=1)
    signs = np.where(right, 1.0, -1.0)

    def loss(weights: Floats) -> tuple[float, Any]:
        margins = signs * (inputs @ weights)
        gradient = -(signs / (1 + np.exp(margins))) @ inputs / len(signs)
        return float(np.logaddexp(0, -margins).mean()), gradient

    found = minimize(loss, np.array([1.0, 1.0, 0.0]), jac=True, bounds=[(LEAST, None), (LEAST, None), (None, None)])
    return Calibration(*(float(value) for value in found.x))
