"""Replays stopping rules over recorded pools in many random orders.

For each order, the tally after every sample is built for all problems at once, by cumulative sums. Each rule's
statistic is computed once for every prefix; each threshold is then one comparison and one search for the first stop.
So thresholds are nearly free, and the cost is that of the tallies and statistics.

A rule stops at its threshold, at its maximum, or at the end of the pool. If a pool is smaller than the rule's minimum,
the vote is over the whole pool.

Shape legend: P problems, N samples, K classes, T thresholds.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from algorithms.voting.curves import Curve
from algorithms.voting.gain import GainModel, GainSums, state_features
from algorithms.voting.pools import Pools, at_prefix, chunks, prefix_tally, random_orders, shuffled
from algorithms.voting.posterior import Posterior, class_probabilities, fit_posterior
from algorithms.voting.sweeps import Sweep
from algorithms.voting.tally import FloatArray, IntArray
from algorithms.voting.votes import tally_accuracy


def replay(
    pools: Pools,
    sweeps: Mapping[str, Sweep],
    *,
    method: str = "sc",
    posterior: Posterior | None = None,
    num_orders: int = 20,
    seed: int = 0,
) -> dict[str, Curve]:
    """For each rule and threshold: samples, tokens and expected accuracy of each problem, averaged over the orders."""
    if num_orders < 1:
        raise ValueError(f"num_orders={num_orders} must be at least 1")
    num_problems = len(pools.classes)
    sums = {name: np.zeros((3, num_problems, len(sweep.thresholds))) for name, sweep in sweeps.items()}
    for order in random_orders(pools, num_orders, seed):
        for rows, part in chunks(shuffled(pools, order)):
            tally = prefix_tally(part)
            accuracy = tally_accuracy(method, tally, part.is_right[:, None], posterior)
            tokens = np.where(part.is_drawn, part.tokens, 0.0).cumsum(axis=1)
            for name, sweep in sweeps.items():
                stop = first_stops(sweep, sweep.rule.statistic(tally), part.sizes)
                sums[name][0][rows] += stop + 1
                sums[name][1][rows] += np.take_along_axis(tokens, stop, axis=1)
                sums[name][2][rows] += np.take_along_axis(accuracy, stop, axis=1)
    return {
        name: Curve(sweep.thresholds, *(values / num_orders for values in sums[name])) for name, sweep in sweeps.items()
    }


def first_stops(sweep: Sweep, statistic: FloatArray, sizes: IntArray) -> IntArray:
    """The index of the last sample drawn, [P, T], for each threshold; statistic is [P, N]."""
    num_seen = np.arange(1, statistic.shape[1] + 1)
    stops = np.stack([sweep.rule.stops(statistic, num_seen, each) for each in sweep.thresholds], axis=-1)  # [P, N, T]
    stops |= (num_seen >= sizes[:, None])[..., None]
    return np.asarray(stops.argmax(axis=1), dtype=np.int64)


def accuracy_by_samples(
    pools: Pools,
    methods: Sequence[str],
    *,
    posterior: Posterior | None = None,
    num_orders: int = 20,
    seed: int = 0,
) -> dict[str, FloatArray]:
    """The expected accuracy of each method after every number of samples, [P, N], averaged over the orders.

    Past the end of a pool, the accuracy of the whole pool is repeated.
    """
    sums = {method: np.zeros(pools.classes.shape) for method in methods}
    for order in random_orders(pools, num_orders, seed):
        for rows, part in chunks(shuffled(pools, order)):
            tally = prefix_tally(part)
            for method in sums:
                sums[method][rows] += tally_accuracy(method, tally, part.is_right[:, None], posterior)
    return {method: total / num_orders for method, total in sums.items()}


def fit_posterior_on_prefixes(
    pools: Pools,
    sizes: Sequence[int],
    *,
    has_scores: bool = True,
    num_checks: int = 0,
    penalty: float = 1.0,
    seed: int = 0,
) -> Posterior:
    """A posterior that is calibrated at each of these numbers of samples, from one random order of each problem.

    The `penalty` is for each size: the prefixes of a problem tell nearly the same.
    """
    largest = pools.classes.shape[1]
    if not sizes or not all(1 <= size <= largest for size in sizes):
        raise ValueError(f"sizes must be from 1 to {largest}, got {list(sizes)}")
    (order,) = random_orders(pools, 1, seed)
    tally = at_prefix(prefix_tally(shuffled(pools, order)), np.array(sizes) - 1)
    is_right = np.broadcast_to(pools.is_right[:, None], tally.counts.shape)
    return fit_posterior(tally, is_right, has_scores=has_scores, num_checks=num_checks, penalty=penalty * len(sizes))


def fit_gain(
    pools: Pools,
    *,
    method: str = "sc",
    posterior: Posterior | None = None,
    has_scores: bool = True,
    num_orders: int = 20,
    seed: int = 0,
    penalty: float = 10.0,
) -> GainModel:
    """Learn the expected gain from recorded pools of training problems, all of the same size: the budget.

    With a posterior, a class counts as its probability given the whole pool, instead of as right or wrong. The gain
    has the same expectation if the posterior is calibrated, and much less noise: it is never negative for the vote
    `posterior`, and an answer that was right by luck does not hide the worth of going on.
    """
    if method == "oracle":
        raise ValueError("the bound 'oracle' has no vote to gain from; choose another method")
    budget = pools.classes.shape[1]
    if not (pools.sizes == budget).all() or budget < 2:
        raise ValueError(f"every pool must hold the same number of samples, at least 2; the largest has {budget}")
    sums = GainSums()
    for order in random_orders(pools, num_orders, seed):
        states, gains = [], []
        for _, part in chunks(shuffled(pools, order)):
            tally = prefix_tally(part)
            value = part.is_right[:, None].astype(np.float64)
            if posterior is not None:
                value = class_probabilities(posterior, tally)[:, -1:]
            accuracy = tally_accuracy(method, tally, value, posterior)
            state = state_features(tally, has_scores=has_scores, posterior=posterior)
            states.append(state[:, :-1].reshape(-1, state.shape[-1]))
            gains.append((accuracy[:, -1:] - accuracy)[:, :-1].ravel())
        sums.add(np.concatenate(states), np.concatenate(gains))
    return sums.fit(method, budget, has_scores=has_scores, has_posterior=posterior is not None, penalty=penalty)
