"""Pair accuracy, AUC and calibration against sums that a person can follow."""

import itertools

import numpy as np
import pytest

from algorithms.ranking.calibration import Calibration, fit_calibration
from algorithms.ranking.metrics import area_under_curve, count_pairs, reliability


def test_pairs_are_counted_within_problems_and_ties_count_half():
    scores = np.array([0.9, 0.2, 0.5, 0.5, 0.1, 0.8])
    right = np.array([True, False, True, False, True, True])
    problems = np.array([7, 7, 3, 3, 3, 5])  # 5 has no wrong sample
    counts = count_pairs(scores, right, problems)
    # Problem 3: 0.5 against 0.5 is a tie, 0.1 against 0.5 is lost. Problem 7: 0.9 against 0.2 is won.
    assert (counts.won.tolist(), counts.pairs.tolist()) == ([0.5, 1.0], [2.0, 1.0])
    assert counts.accuracy == 0.5


def test_pairs_are_those_of_a_plain_loop():
    chance = np.random.default_rng(1)
    scores, right = chance.integers(0, 6, 200) / 6, chance.random(200) < 0.4
    problems = chance.integers(0, 20, 200)
    won = pairs = 0.0
    for one, other in itertools.product(range(200), repeat=2):
        if right[one] and not right[other] and problems[one] == problems[other]:
            pairs += 1
            won += (scores[one] > scores[other]) + (scores[one] == scores[other]) / 2
    counts = count_pairs(scores, right, problems)
    assert (counts.won.sum(), counts.pairs.sum()) == (won, pairs)


def test_without_a_pair_there_is_no_accuracy():
    assert np.isnan(count_pairs(np.array([0.1]), np.array([True]), np.array([0])).accuracy)


def test_the_area_under_the_curve_ignores_problems():
    assert area_under_curve(np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, False, True, True])) == 3 / 4


def test_calibration_error_is_the_mean_distance_of_score_and_share():
    scores = np.array([0.2, 0.2, 0.8, 0.8])
    bins = reliability(scores, np.array([False, True, True, True]), num_bins=2)
    # Bins: score 0.2 with half right, score 0.8 with all right. (0.3 + 0.2) / 2.
    assert bins.expected_error == pytest.approx(0.25)
    with pytest.raises(ValueError, match="at least one sample"):
        reliability(np.array([]), np.array([], dtype=bool))


def test_calibration_recovers_a_distortion_and_keeps_the_order():
    chance = np.random.default_rng(2)
    truth = chance.random(40_000)
    right = chance.random(40_000) < truth
    distorted = truth**2 / (truth**2 + (1 - truth) ** 2)  # logits doubled: too sure
    fitted = fit_calibration(distorted, right)
    assert fitted.a == pytest.approx(0.5, abs=0.03)
    assert fitted.b == pytest.approx(0.5, abs=0.03)
    grid = np.linspace(0, 1, 101)
    assert (np.diff(fitted(grid)) > 0).all()
    assert reliability(fitted(distorted), right).expected_error < 0.01 < reliability(distorted, right).expected_error
    assert np.allclose(Calibration()(grid[1:-1]), grid[1:-1])


@pytest.mark.parametrize("right", [True, False])
def test_calibration_needs_right_and_wrong_samples(right):
    with pytest.raises(ValueError, match="right and wrong samples"):
        fit_calibration(np.array([0.2, 0.3]), np.array([right, right]))
