"""How good a ranker is on a split: the facts in `ranker.json` and in the report."""

from dataclasses import asdict
from typing import Any

import numpy as np

from actors.errors import UserError
from algorithms.ranking.calibration import Calibration, fit_calibration
from algorithms.ranking.metrics import Bools, Floats, Ints, area_under_curve, count_pairs, reliability
from algorithms.voting.intervals import resampled_means


def calibrated(scores: Floats, right: Bools) -> Calibration:
    """The calibration of raw scores on the split validation. Raises UserError if it has one class only."""
    try:
        return fit_calibration(scores, right)
    except ValueError as error:
        raise UserError(f"--data: {error} in the split validation") from None


def measured(scores: Floats, right: Bools, problems: Ints) -> dict[str, Any]:
    """How good calibrated scores are, with 95% intervals of a bootstrap over problems for the pairs."""
    pairs = count_pairs(scores, right, problems)
    bins = reliability(scores, right)
    facts: dict[str, Any] = {
        "samples": len(scores),
        "problems": len(np.unique(problems)),
        "right": float(right.mean()),
        "area_under_curve": area_under_curve(scores, right) if 0 < right.mean() < 1 else None,
        "calibration_error": bins.expected_error,
        "reliability": {name: np.asarray(values).tolist() for name, values in asdict(bins).items()},
        "pairs": float(pairs.pairs.sum()),
        "pair_accuracy": None,
    }
    if len(pairs.pairs):
        means = resampled_means(np.stack([pairs.won, pairs.pairs], axis=1))
        low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
        facts["pair_accuracy"] = {"mean": pairs.accuracy, "low": float(low), "high": float(high)}
    return facts
