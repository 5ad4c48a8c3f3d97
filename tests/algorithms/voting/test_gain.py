"""The gain model in a world whose expected gains are known exactly."""

import json
import pickle
import random
from math import comb

import numpy as np
import pytest
from scipy import stats

from algorithms.voting.gain import GainModel, expected_gain, state_features, state_names
from algorithms.voting.recorded import Recorded, pools_of
from algorithms.voting.replay import fit_gain, fit_posterior_on_prefixes, replay
from algorithms.voting.stopping import Fixed, Gain
from algorithms.voting.sweeps import Sweep
from algorithms.voting.tally import Candidates, tally_of
from tests.algorithms.voting.worlds import ranked_world

BUDGET = 8


def known_world(num_problems, seed):
    """Half of the problems are easy: 8 right samples. The others have 5 right samples and 3 with one wrong answer."""
    draw = random.Random(seed)
    problems = []
    for _ in range(num_problems):
        classes = [0] * 8 if draw.random() < 0.5 else [0] * 5 + [1] * 3
        draw.shuffle(classes)
        problems.append(Recorded(Candidates(classes), [number == 0 for number in classes]))
    return problems


def exact_gain(leader, runner_up):
    """1 - P(the leader is right): the vote over all 8 samples is always right.

    Of the comb(8, n) sets of n samples of a hard problem, comb(5, a) * comb(3, b) have a right and b wrong ones.
    """
    seen = leader + runner_up
    right = comb(5, leader) * comb(3, runner_up) / comb(8, seen) + (runner_up == 0)
    wrong = comb(5, runner_up) * comb(3, leader) / comb(8, seen)
    if leader == runner_up:
        return 0.5
    return wrong / (right + wrong)


STATES = [(a, b) for a in range(1, 6) for b in range(4) if b <= a and a + b < BUDGET]
MODEL = fit_gain(pools_of(known_world(3000, seed=1)), has_scores=False, num_orders=5)


def state(leader, runner_up):
    return tally_of(Candidates([1] * leader + [0] * runner_up))


@pytest.mark.parametrize(("leader", "runner_up"), STATES)
def test_it_learns_the_expected_gain_of_each_state(leader, runner_up):
    # By hand: (2, 1) has 30 ways with the right one ahead and 15 with the wrong one: 15 / 45 = 1/3.
    assert exact_gain(2, 1) == pytest.approx(1 / 3)
    assert float(expected_gain(MODEL, state(leader, runner_up))) == pytest.approx(
        exact_gain(leader, runner_up), abs=0.035
    )


def test_it_finds_the_best_policy():
    # At a price of 0.1 whatever remains: go on wherever the leader is wrong with more than 10%.
    rule = Gain(0.1, exponent=0, maximum=BUDGET, model=MODEL)
    stops = {pair: rule(state(*pair)) for pair in STATES}
    assert stops == {pair: exact_gain(*pair) < 0.1 for pair in STATES}
    assert [pair for pair, stopped in stops.items() if not stopped] == [
        (1, 0), (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3),
    ]  # fmt: skip


def test_its_replay_uses_fewer_samples_than_a_fixed_number_of_the_same_accuracy():
    test = pools_of(known_world(1000, seed=2))
    curves = replay(
        test,
        {
            "gain": Sweep(Gain(exponent=0, maximum=BUDGET, model=MODEL), (0.1,)),
            "fixed": Sweep(Fixed(maximum=BUDGET), tuple(range(1, BUDGET + 1))),
        },
        num_orders=5,
    )
    gain, fixed = curves["gain"], curves["fixed"]
    # Stopping at (2, 0) errs if the problem is hard and its first two are wrong: 1/2 * 3/28 = 0.054.
    assert gain.accuracy.mean() == pytest.approx(1 - 3 / 56, abs=0.01)
    # Easy problems stop at 2.
    assert gain.num_samples.mean() < 4
    cheaper = fixed.accuracy.mean(axis=0)[fixed.num_samples.mean(axis=0) <= gain.num_samples.mean()]
    assert cheaper.max() < gain.accuracy.mean() - 0.02


def test_a_used_up_budget_gains_nothing():
    assert float(expected_gain(MODEL, tally_of(Candidates([0] * 4 + [1] * 4)))) == 0.0


def test_the_state_of_a_few_samples():
    tally = tally_of(Candidates([0, 0, 1, None], [0.9, 0.5, 0.6, None]))
    names = state_names(has_scores=True, has_posterior=False)
    found = dict(zip(names, state_features(tally, has_scores=True, posterior=None).tolist(), strict=True))
    assert found == pytest.approx(
        {
            "log_seen": np.log(4),
            "inverse_seen": 1 / 4,
            "share_first": 1 / 2,
            "share_second": 1 / 4,
            "classes_per_sample": 1 / 2,
            "voteless": 1 / 4,
            "entropy": np.log(2) / 2 + np.log(4) / 4,
            "leads": 11 / 16,  # Beta(3, 2): P(Binomial(4, 1/2) <= 2)
            "leads_weighted": stats.beta.sf(0.5, 2.4, 1.6),
            "score_first": 0.7,
            "score_share": 0.7,
        }
    )


def test_with_scores_and_a_posterior():
    pools = pools_of(ranked_world(400, 6, seed=3))
    posterior = fit_posterior_on_prefixes(pools, [2, 4, 6])
    model = fit_gain(pools, method="posterior", posterior=posterior, num_orders=3)
    assert model.feature_names == state_names(has_scores=True, has_posterior=True)
    decided = tally_of(Candidates([0] * 5, [0.9] * 5))
    split = tally_of(Candidates([0, 0, 1, 1], [0.4, 0.6, 0.6, 0.4]))
    assert abs(float(expected_gain(model, decided, posterior))) < 0.03
    assert float(expected_gain(model, split, posterior)) > 0.05
    with pytest.raises(ValueError, match="this gain model reads a posterior"):
        Gain(model=model, maximum=6)
    with pytest.raises(ValueError, match="candidate 0 has no score"):
        expected_gain(model, tally_of(Candidates([0])), posterior)


@pytest.mark.parametrize("classes", [[], [None, None]])
def test_without_an_answer_it_still_has_a_state(classes):
    assert np.isfinite(float(expected_gain(MODEL, tally_of(Candidates(classes)))))


def test_it_refuses_pools_that_it_cannot_learn_from():
    mixed = pools_of([*ranked_world(2, 4, seed=1), *ranked_world(1, 3, seed=1)])
    with pytest.raises(ValueError, match="every pool must hold the same number of samples"):
        fit_gain(mixed)
    with pytest.raises(ValueError, match="'oracle' has no vote"):
        fit_gain(mixed, method="oracle")


def test_it_survives_json_and_pickle():
    data = json.loads(json.dumps(MODEL.to_json()))
    assert GainModel.from_json(data) == MODEL
    assert pickle.loads(pickle.dumps(MODEL)) == MODEL
    with pytest.raises(ValueError, match="version 0, but 1 is needed: fit it again"):
        GainModel.from_json(data | {"version": 0})
    with pytest.raises(ValueError, match=r"other features \(age\)"):
        GainModel.from_json(data | {"features": ["age"]})
