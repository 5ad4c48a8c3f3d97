"""The posterior: its sum, its gradient, and whether it finds a known truth."""

import json
import pickle

import numpy as np
import pytest

from algorithms.voting.features import COUNT_FEATURES, SCORE_FEATURES, class_features, feature_names
from algorithms.voting.pools import full_tally
from algorithms.voting.posterior import Posterior, class_probabilities, fit_posterior, negative_log_likelihood
from algorithms.voting.recorded import pools_of
from algorithms.voting.replay import fit_posterior_on_prefixes
from algorithms.voting.tally import Candidates, tally_of
from algorithms.voting.votes import expected_accuracy, tally_accuracy, winners
from tests.algorithms.voting.worlds import ranked_world

MODEL = Posterior(
    tuple(
        {"one": -2.0, "log_count": 1.0, "odds_share_log_seen": 1.5, "voteless": -1.0}.get(name, 0.0)
        for name in feature_names(has_scores=True, num_checks=0)
    ),
    has_scores=True,
)


def test_the_features_of_two_classes():
    # Scores 0.8 and 0.5 have log-odds log 4 and 0.
    tally = tally_of(Candidates([0, 0, 1, None], [0.8, 0.5, 0.5, None], checks=[[1], [2], [5], [7]]))
    log2, log4 = np.log(2), np.log(4)
    first = [1, log4, 1 / 4, log2, 1 / 2, log4 / 2, log2, 0, log4 / 3, log4 / 4, log4**2 / 4, log4 / 2, log4, 13 / 18]
    second = [1, log4, 1 / 4, log2, 1 / 4, log4 / 4, 0, 1, log4 / 3, 0, 0, 0, 0, 5 / 18]
    features = class_features(tally, has_scores=True, num_checks=1)
    assert features == pytest.approx(np.array([[*first, 1.5], [*second, 5]]))
    assert feature_names(has_scores=True, num_checks=1) == (*COUNT_FEATURES, *SCORE_FEATURES, "check_0")
    assert class_features(tally, has_scores=False, num_checks=0) == pytest.approx(np.array([first[:8], second[:8]]))


def test_probabilities_are_the_softmax_with_none():
    tally = tally_of(Candidates([0, 0, 1, None], [0.8, 0.5, 0.5, None]))
    # Utilities: -2 + log 2 + 1.5 log(4) ** 2 / 4 - 1 / 4 and -2 - 1 / 4; "none of these" has 0.
    exponentials = np.exp([-2.25 + np.log(2) + 1.5 * np.log(4) ** 2 / 4, -2.25])
    assert class_probabilities(MODEL, tally) == pytest.approx(exponentials / (1 + exponentials.sum()))


@pytest.mark.parametrize("num_samples", [1, 2, 16, 500])
def test_probabilities_sum_to_less_than_one_for_any_number_of_samples(num_samples):
    generator = np.random.default_rng(num_samples)
    classes = [int(number) if number else None for number in generator.integers(6, size=num_samples)]
    probabilities = class_probabilities(MODEL, tally_of(Candidates(classes, generator.random(num_samples).tolist())))
    assert len(probabilities) == len(set(classes) - {None})
    assert (probabilities > 0).all()
    assert probabilities.sum() < 1


@pytest.mark.parametrize("classes", [[], [None, None]])
def test_without_an_answer_none_is_right(classes):
    candidates = Candidates(classes)
    assert class_probabilities(MODEL, tally_of(candidates)).tolist() == []
    assert winners("posterior", candidates, MODEL) == ()
    assert expected_accuracy("posterior", candidates, {0}, MODEL) == 0.0


def test_the_gradient_is_that_of_finite_differences():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((30, 4, 5))
    is_present = generator.random((30, 4)) < 0.7
    is_right = generator.random((30, 4)) < 0.4  # none, one or several
    weights = generator.standard_normal(5)
    gradient = negative_log_likelihood(weights, features, is_present, is_right).gradient
    steps = 1e-5 * np.eye(5)
    numeric = [
        (
            negative_log_likelihood(weights + step, features, is_present, is_right).value
            - negative_log_likelihood(weights - step, features, is_present, is_right).value
        )
        / 2e-5
        for step in steps
    ]
    assert gradient == pytest.approx(np.array(numeric), rel=1e-6, abs=1e-6)


def test_the_likelihood_of_one_question():
    # Utilities 0 (none), log 2 and log 3: probabilities 1/6, 2/6, 3/6.
    features, present = np.log([[[2.0], [3.0]]]), np.array([[True, True]])
    for right, probability in (([True, False], 2 / 6), ([False, False], 1 / 6), ([True, True], 5 / 6)):
        loss = negative_log_likelihood(np.array([1.0]), features, present, np.array([right]))
        assert loss.value == pytest.approx(-np.log(probability))


def test_it_recovers_a_known_model():
    pools = pools_of(ranked_world(4000, num_samples=6, seed=1))
    tally = full_tally(pools)
    truth = class_probabilities(MODEL, tally)
    # Draw the right outcome of each question from the model; column K is "none".
    cumulative = truth.cumsum(axis=1)
    outcome = (np.random.default_rng(2).random((4000, 1)) > cumulative).sum(axis=1)
    is_right = outcome[:, None] == np.arange(truth.shape[1])
    found = class_probabilities(fit_posterior(tally, is_right), tally)
    assert np.abs(found - truth)[tally.is_present].mean() < 0.02


def test_it_beats_the_majority_where_scores_tell_and_is_calibrated():
    training, test = (pools_of(ranked_world(3000, num_samples=8, seed=seed)) for seed in (3, 4))
    model = fit_posterior_on_prefixes(training, [2, 4, 8])
    tally = full_tally(test)
    accuracy = {
        method: tally_accuracy(method, tally, test.is_right, model).mean() for method in ("sc", "asc", "posterior")
    }
    assert accuracy["posterior"] > accuracy["sc"] + 0.05
    assert accuracy["posterior"] > accuracy["asc"] - 0.005
    probabilities = class_probabilities(model, tally)
    for low, high in ((0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1)):
        in_bin = tally.is_present & (probabilities >= low) & (probabilities < high)
        assert probabilities[in_bin].mean() == pytest.approx(test.is_right[in_bin].mean(), abs=0.05)


def test_checks_are_used():
    # The counts are tied; a check says which of the two is right.
    problems = ranked_world(400, num_samples=1, seed=5)
    generator = np.random.default_rng(6)
    recorded = []
    for _ in problems:
        flip = bool(generator.random() < 0.5)
        candidates = Candidates([0, 1], checks=[[float(flip)], [float(not flip)]])
        recorded.append(type(problems[0])(candidates, [flip, not flip]))
    pools = pools_of(recorded)
    model = fit_posterior(full_tally(pools), pools.is_right, has_scores=False, num_checks=1)
    assert tally_accuracy("posterior", full_tally(pools), pools.is_right, model).mean() == 1.0
    with pytest.raises(ValueError, match="reads 1 checks of each sample, but there are 0"):
        winners("posterior", Candidates([0, 1]), model)


def test_a_model_that_reads_scores_names_the_candidate_without_one():
    with pytest.raises(ValueError, match="candidate 1 has no score"):
        winners("posterior", Candidates([0, 1], [0.5, None]), MODEL)


def test_it_survives_json_and_pickle():
    data = json.loads(json.dumps(MODEL.to_json()))
    assert Posterior.from_json(data) == MODEL
    assert pickle.loads(pickle.dumps(MODEL)) == MODEL
    assert data["version"] == 1
    assert data["weights"]["log_count"] == 1.0
    with pytest.raises(ValueError, match="version 0, but 1 is needed: fit it again"):
        Posterior.from_json(data | {"version": 0})
    with pytest.raises(ValueError, match=r"other features \(length\)"):
        Posterior.from_json(data | {"weights": data["weights"] | {"length": 1.0}})
    with pytest.raises(ValueError, match="1 weights for 8 features"):
        Posterior((1.0,), has_scores=False)


def test_nothing_to_learn_from_is_refused():
    pools = pools_of([type(ranked_world(1, 1, 0)[0])(Candidates([None]), [None])])
    with pytest.raises(ValueError, match="at least one question with a parsable answer"):
        fit_posterior(full_tally(pools), pools.is_right, has_scores=False)
    with pytest.raises(ValueError, match=r"sizes must be from 1 to 1, got \[2\]"):
        fit_posterior_on_prefixes(pools, [2], has_scores=False)
