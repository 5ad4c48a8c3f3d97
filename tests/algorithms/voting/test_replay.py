"""The replay against a naive loop over samples, and what curves and intervals make of it."""

import math
from dataclasses import astuple

import numpy as np
import pytest

from algorithms.voting.curves import Curve, points, suggest
from algorithms.voting.intervals import bootstrap_difference, bootstrap_mean, resampled_means
from algorithms.voting.pools import chunks, full_tally, prefix_tally, random_orders
from algorithms.voting.posterior import fit_posterior
from algorithms.voting.recorded import Recorded, pools_of
from algorithms.voting.replay import accuracy_by_samples, fit_gain, fit_posterior_on_prefixes, replay
from algorithms.voting.stopping import Beta, BetaWeighted, Cges, Fixed, Gain, Window
from algorithms.voting.sweeps import Sweep
from algorithms.voting.tally import Candidates, Count
from algorithms.voting.votes import METHODS, expected_accuracy
from tests.algorithms.voting.worlds import ranked_world

BUDGET = 6
TRAINING = pools_of(ranked_world(300, BUDGET, seed=1))
POSTERIOR = fit_posterior_on_prefixes(TRAINING, [2, 4, 6])
GAIN = fit_gain(TRAINING, method="posterior", posterior=POSTERIOR, num_orders=2)
# Pools of 6, 3, 1 and 6 samples; in the last one nobody votes.
PROBLEMS = [
    *ranked_world(6, BUDGET, seed=2),
    *ranked_world(3, 3, seed=3),
    *ranked_world(2, 1, seed=4),
    Recorded(Candidates([None] * 6), [None] * 6, [10] * 6),
]
SWEEPS = {
    "fixed": Sweep(Fixed(1, maximum=BUDGET), (1, 4, 6)),
    "beta": Sweep(Beta(maximum=BUDGET), (0.5, 0.8, 0.95)),
    "beta-in-waves": Sweep(Beta(minimum=3, maximum=5, wave=2), (0.5, 0.8)),
    "window": Sweep(Window(maximum=BUDGET), (1, 2, 3)),
    "cges": Sweep(Cges(maximum=BUDGET), (0.5, 0.9)),
    "beta-weighted": Sweep(BetaWeighted(maximum=BUDGET), (0.5, 0.7, 0.9)),
    "gain": Sweep(Gain(maximum=BUDGET, model=GAIN, posterior=POSTERIOR), (0.0, 0.01, 0.05)),
}


def rule_at(rule, threshold):
    fields = {name: getattr(rule, name) for name in ("minimum", "maximum", "wave")}
    if isinstance(rule, Gain):
        fields |= {"model": rule.model, "posterior": rule.posterior, "exponent": rule.exponent}
    return type(rule)(threshold, **fields)


def right_classes(problem):
    """Class 0 is right wherever a sample of it is graded: see worlds.ranked_world."""
    return {0} if True in problem.correct else set()


def naive(problem, order, rule, method):
    """Draw one sample after the other, ask the rule, and vote."""
    count, tokens, candidates = Count(), 0, problem.candidates
    for index in order:
        count.add(
            candidates.classes[index],
            None if candidates.scores is None else candidates.scores[index],
            None if candidates.logprobs is None else candidates.logprobs[index],
        )
        tokens += problem.tokens[index]
        if rule(count.tally()):
            break
    seen = order[: count.num_seen]
    seen_candidates = Candidates(
        [candidates.classes[i] for i in seen],
        None if candidates.scores is None else [candidates.scores[i] for i in seen],
        None if candidates.logprobs is None else [candidates.logprobs[i] for i in seen],
    )
    return count.num_seen, tokens, expected_accuracy(method, seen_candidates, right_classes(problem), POSTERIOR)


@pytest.mark.parametrize("method", ["sc", "asc", "posterior"])
def test_a_replay_is_the_naive_loop(method):
    pools = pools_of(PROBLEMS)
    curves = replay(pools, SWEEPS, method=method, posterior=POSTERIOR, num_orders=3, seed=5)
    orders = list(random_orders(pools, 3, seed=5))
    for name, sweep in SWEEPS.items():
        for column, threshold in enumerate(sweep.thresholds):
            rule = rule_at(sweep.rule, threshold)
            for row, problem in enumerate(PROBLEMS):
                runs = [naive(problem, order[row, : len(problem.correct)].tolist(), rule, method) for order in orders]
                expected = np.mean(runs, axis=0)
                curve = curves[name]
                found = [curve.num_samples[row, column], curve.num_tokens[row, column], curve.accuracy[row, column]]
                assert found == pytest.approx(expected), (name, threshold, row)


def test_fixed_numbers_give_the_curve_of_accuracy_by_samples():
    pools = pools_of(PROBLEMS)
    sweeps = {"fixed": Sweep(Fixed(maximum=BUDGET), tuple(range(1, BUDGET + 1)))}
    fixed = replay(pools, sweeps, num_orders=4, seed=6)["fixed"]
    by_samples = accuracy_by_samples(pools, ["sc", "sc"], num_orders=4, seed=6)
    assert list(by_samples) == ["sc"]
    assert by_samples["sc"] == pytest.approx(fixed.accuracy)
    assert fixed.num_samples.tolist() == [
        [min(number, len(problem.correct)) for number in range(1, BUDGET + 1)] for problem in PROBLEMS
    ]


@pytest.mark.parametrize("method", METHODS)
def test_whole_pools_give_the_votes_of_single_questions(method):
    pools = pools_of(PROBLEMS)
    accuracy = accuracy_by_samples(pools, [method], posterior=POSTERIOR, num_orders=1)[method][:, -1]
    if method == "first":  # depends on the order
        assert set(accuracy) <= {0.0, 1.0}
        return
    expected = [
        expected_accuracy(method, problem.candidates, right_classes(problem), POSTERIOR) for problem in PROBLEMS
    ]
    assert accuracy == pytest.approx(np.array(expected))


def test_the_order_of_the_problems_and_the_chunks_do_not_matter():
    pools = pools_of(ranked_world(600, 4, seed=7))  # three chunks
    rows = np.concatenate([rows for rows, _ in chunks(pools)])
    assert sorted(rows.tolist()) == list(range(600))
    tally = prefix_tally(pools)
    for rows, part in chunks(pools):
        num_classes = part.is_right.shape[1]
        assert (prefix_tally(part).counts == tally.counts[rows][..., :num_classes]).all()
        assert tally.counts[rows][..., num_classes:].sum() == 0


def test_a_class_is_right_if_most_of_its_graded_samples_are():
    classes = [5, 5, 5, 7, 7, 9, None]
    pools = pools_of([Recorded(Candidates(classes), [True, False, False, True, False, None, None])])
    assert pools.is_right.tolist() == [[False, True, False]]  # 1 of 3, 1 of 2, none graded
    assert pools.classes.tolist() == [[0, 0, 0, 1, 1, 2, -1]]
    assert pools.tokens.tolist() == [[1.0] * 7]


def test_a_replay_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="at least one recorded problem"):
        pools_of([])
    with pytest.raises(ValueError, match="problem 0 has 2 answers, but 1 verdicts"):
        pools_of([Recorded(Candidates([0, 1]), [True])])
    with pytest.raises(ValueError, match="candidate 0 has no score"):
        replay(pools_of([Recorded(Candidates([0]), [True])]), {"cges": SWEEPS["cges"]})
    with pytest.raises(ValueError, match="num_orders=0"):
        replay(pools_of(PROBLEMS), SWEEPS, num_orders=0)
    with pytest.raises(ValueError, match="at least one threshold"):
        Sweep(Beta(), ())
    with pytest.raises(ValueError, match="threshold=2 must be a probability"):
        Sweep(Beta(), (0.5, 2))


def test_a_replay_is_the_same_for_the_same_seed():
    pools = pools_of(PROBLEMS)
    one, same, other = (
        replay(pools, {"beta": SWEEPS["beta"]}, num_orders=2, seed=seed)["beta"].num_tokens for seed in (1, 1, 2)
    )
    assert (one == same).all()
    assert (one != other).any()


# 1000 problems; thresholds 0.5, 0.7, 0.9 use 2, 4, 8 samples and are right for the first 500, 600, 610 problems.
CURVE = Curve(
    (0.5, 0.7, 0.9),
    np.tile([2.0, 4.0, 8.0], (1000, 1)),
    np.tile([20.0, 40.0, 80.0], (1000, 1)),
    (np.arange(1000)[:, None] < [500, 600, 610]).astype(float),
)


def test_points_have_means_and_binomial_intervals():
    found = points(CURVE)
    assert [(point.threshold, point.accuracy.mean) for point in found] == [(0.5, 0.5), (0.7, 0.6), (0.9, 0.61)]
    for number, point in zip((2, 4, 8), found, strict=True):
        assert astuple(point.num_samples) == pytest.approx((number, number, number))
        assert astuple(point.num_tokens) == pytest.approx((10 * number, 10 * number, 10 * number))
    # The standard error of a share of 0.5 of 1000 is 0.0158; 1.96 of them are 0.031.
    assert found[0].accuracy.low == pytest.approx(0.469, abs=0.004)
    assert found[0].accuracy.high == pytest.approx(0.531, abs=0.004)


def test_suggest_takes_the_cheapest_that_suffices_and_says_how_sure_it_is():
    suggestion = suggest(CURVE, 0.59)
    assert suggestion.point == points(CURVE)[1]
    assert suggestion.chosen == (0.7, 0.9)
    # 0.6 is 0.65 standard errors (0.0155) above 0.59: P = 0.74. 0.61 is 1.3 above it: P = 0.90.
    assert suggestion.reached == pytest.approx(0.74, abs=0.04)
    assert suggestion.reachable == pytest.approx(0.90, abs=0.04)
    assert suggest(CURVE, 0.3).chosen == (0.5, 0.5)
    with pytest.raises(ValueError, match=r"no threshold reaches an accuracy of 0.7000; the best one reaches 0.6100"):
        suggest(CURVE, 0.7)


def test_suggest_against_a_reference_is_paired():
    # The reference is right for the first 620 problems. Thresholds 0.7 and 0.9 lose 20 and 10 of them: 0.02 and 0.01.
    reference = (np.arange(1000) < 620).astype(float)
    suggestion = suggest(CURVE, -0.015, reference=reference)
    assert suggestion.point == points(CURVE)[2]
    # The standard error of a share of 0.01 of 1000 is 0.0031: -0.01 is 1.6 of them above -0.015. P = 0.945.
    assert suggestion.reached == pytest.approx(0.945, abs=0.03)
    with pytest.raises(ValueError, match=r"reaches an accuracy of 0.0000; the best one reaches -0.0100"):
        suggest(CURVE, 0.0, reference=reference)


def test_intervals_of_means_and_paired_differences():
    generator = np.random.default_rng(0)
    values = generator.standard_normal(2000)
    found = bootstrap_mean(values, resamples=2000)
    error = values.std() / math.sqrt(2000)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    # Pairing removes what both share: the difference is 0.5 for every problem.
    shifted = bootstrap_difference(values + 0.5, values)
    assert [shifted.mean, shifted.low, shifted.high] == pytest.approx([0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="the same problems, got 2000 and 5"):
        bootstrap_difference(values, values[:5])
    with pytest.raises(ValueError, match="at least one problem"):
        bootstrap_mean(np.array([]))
    assert resampled_means(np.ones((3, 2)), resamples=150) == pytest.approx(np.ones((150, 2)))


def test_a_posterior_of_whole_pools_does_not_depend_on_the_order():
    pools = pools_of(ranked_world(200, 3, seed=8))
    from_prefixes = fit_posterior_on_prefixes(pools, [3], seed=9)
    assert from_prefixes.weights == pytest.approx(fit_posterior(full_tally(pools), pools.is_right).weights, abs=0.02)
