"""Evaluations: cross-fitting, pass@k, summaries, comparisons, policies."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from algorithms.voting.comparison import compare, correlation
from algorithms.voting.curves import Curve
from algorithms.voting.evaluation import Plan, cross_fitted, evaluate, fit_models, fold_of, pass_at
from algorithms.voting.policy import Policy
from algorithms.voting.pools import full_tally
from algorithms.voting.recorded import pools_of
from algorithms.voting.stopping import RULES, Beta, Gain
from algorithms.voting.summaries import Problems, summarize
from algorithms.voting.tally import tally_of
from algorithms.voting.votes import METHODS, tally_accuracy
from tests.algorithms.voting.worlds import ranked_world

WORLD = ranked_world(300, 6, seed=1)
POOLS = pools_of(WORLD)
PLAN = Plan(tuple(METHODS), tuple(RULES), "posterior", num_orders=3)
PROBLEMS = Problems(
    num_samples=POOLS.sizes,
    num_right=np.array([sum(verdict is True for verdict in each.correct) for each in WORLD]),
    tokens=POOLS.tokens.sum(axis=1),
    perplexity=np.exp(-POOLS.logprobs.mean(axis=1)),
    groups={"level": ["hard" if number % 10 == 0 else "easy" for number in range(300)]},
)


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(POOLS, PLAN)


def test_each_problem_is_judged_once_by_models_that_never_saw_it():
    folds = fold_of(300, 5, seed=0)
    assert np.bincount(folds).tolist() == [60] * 5
    judged = []
    for rows, models in cross_fitted(POOLS, PLAN, folds):
        judged += rows.tolist()
        others = np.setdiff1d(np.arange(300), rows)
        assert models == fit_models(POOLS.take(others), PLAN)
    assert sorted(judged) == list(range(300))


def test_votes_that_learn_nothing_are_those_of_the_whole_pools(evaluation):
    tally = full_tally(POOLS)
    for vote in set(METHODS) - {"posterior"}:
        assert evaluation.accuracy[vote] == pytest.approx(tally_accuracy(vote, tally, POOLS.is_right))
        if vote != "first":  # the first sample of another order
            assert evaluation.by_samples[vote][:, -1] == pytest.approx(evaluation.accuracy[vote])
    assert evaluation.accuracy["posterior"].mean() > evaluation.accuracy["sc"].mean()
    assert (evaluation.by_samples["oracle"].mean(axis=0) <= evaluation.accuracy["oracle"].mean() + 1e-9).all()


def test_rules_are_replayed_over_every_problem(evaluation):
    curve = evaluation.curves["fixed"]
    assert curve.num_samples[:, -1] == pytest.approx(6)
    assert curve.accuracy[:, -1] == pytest.approx(evaluation.accuracy["posterior"])
    assert curve.num_tokens[:, -1] == pytest.approx(PROBLEMS.tokens)
    assert set(evaluation.curves) == set(RULES)


def test_a_plan_that_learns_nothing_fits_nothing():
    found = evaluate(POOLS, Plan(("sc",), ("fixed",), num_folds=300, num_orders=1))
    assert (found.models.posterior, found.models.gain, found.confidence) == (None, None, None)


def test_more_folds_than_problems_are_refused():
    with pytest.raises(ValueError, match="3 problems cannot be cut into 5 folds"):
        evaluate(POOLS.take(np.arange(3)), PLAN)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample(k):
    for right in range(6):
        draws = list(itertools.combinations([True] * right + [False] * (5 - right), k))
        expected = sum(map(any, draws)) / len(draws)
        assert pass_at(k, np.array([5]), np.array([right])) == pytest.approx([expected])
    assert np.isnan(pass_at(k, np.array([k - 1]), np.array([0]))).all() or k == 1


def test_a_summary_is_json_with_means_intervals_and_paired_differences(evaluation):
    facts = json.loads(json.dumps(summarize(evaluation, PROBLEMS, 0.01, "posterior")))
    assert (facts["problems"], facts["samples"], facts["samples_per_problem"]) == (300, 1800, 6.0)
    sc, oracle = facts["votes"]["sc"], facts["votes"]["oracle"]
    assert sc["accuracy"]["mean"] == pytest.approx(evaluation.accuracy["sc"].mean())
    assert sc["difference"] == {"mean": 0, "low": 0, "high": 0}
    gap = evaluation.accuracy["oracle"].mean() - evaluation.accuracy["sc"].mean()
    assert oracle["difference"]["low"] < oracle["difference"]["mean"] == pytest.approx(gap)
    assert facts["pass_at"]["1"]["mean"] == pytest.approx((PROBLEMS.num_right / 6).mean())
    assert list(facts["pass_at"]) == ["1", "2", "4"]
    assert {value: each["problems"] for value, each in facts["by"]["level"].items()} == {"easy": 270, "hard": 30}
    mine = np.arange(300) % 10 == 0
    assert facts["by"]["level"]["hard"]["votes"]["sc"]["mean"] == pytest.approx(evaluation.accuracy["sc"][mine].mean())
    for rule in ("fixed", "beta", "gain"):
        suggestion = facts["rules"][rule]["suggestion"]
        assert suggestion["difference"]["mean"] >= -0.01
        assert suggestion["point"]["num_samples"]["mean"] <= 6
    assert sum(facts["confidence"]["problems"]) == 300
    assert facts["confidence"]["expected_error"] < 0.1
    assert len(facts["perplexity"]["bins"]) == 10


def test_small_groups_have_no_interval_and_unreachable_accuracy_no_suggestion(evaluation):
    few = replace(PROBLEMS, groups={"level": ["rare"] * 3 + ["common"] * 297})
    worse = {"sc": Curve((1.0,), *(np.zeros((300, 1)) for _ in range(3)))}
    facts = summarize(replace(evaluation, curves=worse), few, 0.0, "sc")
    assert facts["by"]["level"]["rare"]["votes"]["sc"]["low"] is None
    assert facts["by"]["level"]["common"]["votes"]["sc"]["low"] is not None
    assert facts["rules"]["sc"]["suggestion"] is None


def test_for_single_samples_the_test_is_that_of_mcnemar():
    first = np.array([1.0] * 60 + [0.0] * 40)
    second = first.copy()
    second[:4], second[60:78] = 0, 1  # worse on 4, better on 18
    found = compare(first, second)
    assert (found.better, found.worse) == (18, 4)
    assert found.difference.mean == pytest.approx(0.14)
    assert found.p_value == pytest.approx(binomtest(4, 22).pvalue, abs=0.003)
    assert found.difference.low > 0


def test_equal_evaluations_do_not_differ():
    found = compare(np.array([0.5, 1.0]), np.array([0.5, 1.0]))
    assert (found.p_value, found.better, found.worse, found.difference.high) == (1.0, 0, 0, 0)


def test_correlation_over_levels():
    perplexity, accuracy = np.array([1.0, 2, 3, 5]), np.array([0.9, 0.8, 0.75, 0.5])
    found = correlation(perplexity, accuracy)
    assert found["r"] == pytest.approx(np.corrcoef(perplexity, accuracy)[0, 1])
    assert found["low"] < found["r"] < found["high"]
    assert correlation(perplexity[:3], accuracy[:3])["low"] is None  # three points give no interval
    assert correlation(perplexity[:2], accuracy[:2]) is None
    assert correlation(perplexity, np.full(4, 0.5)) is None


@pytest.mark.parametrize("rule", ["beta", "gain"])
def test_a_policy_survives_json_and_decides_the_same(rule):
    models = fit_models(POOLS, PLAN)
    given = Gain(0.003, 2, 6, 2, model=models.gain, posterior=models.posterior) if rule == "gain" else Beta(0.9, 2, 6)
    policy = Policy("posterior", given, models.posterior)
    again = Policy.from_json(json.loads(json.dumps(policy.to_json())))
    assert again == policy
    tally = tally_of(WORLD[0].candidates)
    assert again.rule.statistic(tally) == pytest.approx(given.statistic(tally))
    with pytest.raises(ValueError, match="this policy has version 0"):
        Policy.from_json(policy.to_json() | {"version": 0})
