"""An evaluation of votes and stopping rules on recorded pools.

What is learned, the posterior and the gain, is cross-fitted: the problems are cut into folds, and each fold is judged
by models fitted on the others. The models in `Evaluation.models` are fitted on all problems. They are for use: no
number here comes from them.

Shape legend: P problems, N samples, K answer classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from algorithms.voting.curves import Curve
from algorithms.voting.gain import GainModel
from algorithms.voting.pools import Pools, at_prefix, chunks, full_tally, prefix_tally
from algorithms.voting.posterior import Posterior, class_probabilities
from algorithms.voting.replay import accuracy_by_samples, fit_gain, fit_posterior_on_prefixes, replay
from algorithms.voting.sweeps import sweeps_for
from algorithms.voting.tally import FloatArray, IntArray
from algorithms.voting.votes import tally_accuracy

MOST_PROBLEMS: Final = 20_000
"""Problems that are fitted on and replayed at most, drawn at random. More would change no digit that is shown."""
PREFIXES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is evaluated: `votes` over whole pools, and stopping `rules` that end in `rule_vote`.

    The replay draws at least `minimum` samples, `wave` at a time, in `num_orders` random orders.
    """

    votes: tuple[str, ...]
    rules: tuple[str, ...] = ()
    rule_vote: str = "sc"
    minimum: int = 1
    wave: int = 1
    num_folds: int = 5
    num_orders: int = 20
    seed: int = 0

    @property
    def needs_posterior(self) -> bool:
        """Whether a posterior must be fitted. The gain reads one even if another vote decides."""
        return "posterior" in (*self.votes, self.rule_vote) or "gain" in self.rules


@dataclass(frozen=True, slots=True)
class Models:
    """What is learned from recorded pools. None where the plan does not need it."""

    posterior: Posterior | None = None
    gain: GainModel | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`accuracy` and `by_samples`: the expected accuracy of each vote over whole pools [P], and after each number of
    samples [R, N]. `curves`: what each rule used and reached, over the R problems in `replayed`. `confidence` [P]: the
    probability that the posterior gives its answer, None without a posterior.
    """

    accuracy: dict[str, FloatArray]
    confidence: FloatArray | None
    replayed: IntArray
    by_samples: dict[str, FloatArray]
    curves: dict[str, Curve]
    models: Models


def fit_models(pools: Pools, plan: Plan) -> Models:
    """The models that a plan needs, fitted on these problems. Raises ValueError if too few samples were recorded."""
    if not plan.needs_posterior:
        return Models()
    pools = pools.take(_drawn(len(pools.classes), plan.seed))
    budget = pools.classes.shape[1]
    sizes = [size for size in PREFIXES if size < budget] + [budget]
    posterior = fit_posterior_on_prefixes(pools, sizes, has_scores=pools.has_scores, seed=plan.seed)
    if "gain" not in plan.rules:
        return Models(posterior)
    whole = pools.take(pools.sizes == budget)
    gain = fit_gain(
        whole,
        method=plan.rule_vote,
        posterior=posterior,
        has_scores=pools.has_scores,
        num_orders=plan.num_orders,
        seed=plan.seed,
    )
    return Models(posterior, gain)


def evaluate(pools: Pools, plan: Plan) -> Evaluation:
    """Evaluate a plan on recorded pools. Raises ValueError if it needs what the samples do not have."""
    num_problems = len(pools.classes)
    folds = fold_of(num_problems, plan.num_folds, plan.seed)
    accuracy = {vote: np.zeros(num_problems) for vote in plan.votes}
    confidence = np.full(num_problems, np.nan)
    replayed = _drawn(num_problems, plan.seed)
    by_samples = {vote: np.zeros((len(replayed), pools.classes.shape[1])) for vote in plan.votes}
    pieces: list[tuple[IntArray, dict[str, Curve]]] = []
    for rows, models in cross_fitted(pools, plan, folds):
        mine = pools.take(rows)
        for vote, values in _whole_pools(mine, plan.votes, models.posterior).items():
            accuracy[vote][rows] = values
        if models.posterior is not None:
            confidence[rows] = _confidence(mine, models.posterior)
        kept = np.intersect1d(rows, replayed)
        if not len(kept):
            continue
        again = pools.take(kept)
        settings = {"posterior": models.posterior, "num_orders": plan.num_orders, "seed": plan.seed}
        for vote, values in accuracy_by_samples(again, plan.votes, **settings).items():  # type: ignore[arg-type]
            by_samples[vote][np.searchsorted(replayed, kept)] = values
        sweeps = sweeps_for(plan.rules, again.classes.shape[1], plan.minimum, plan.wave, models.gain, models.posterior)
        pieces.append((kept, replay(again, sweeps, method=plan.rule_vote, **settings)))  # type: ignore[arg-type]
    return Evaluation(
        accuracy,
        None if np.isnan(confidence).all() else confidence,
        replayed,
        by_samples,
        {rule: _joined(pieces, rule, replayed) for rule in plan.rules},
        fit_models(pools, plan),
    )


def fold_of(num_problems: int, num_folds: int, seed: int) -> IntArray:
    """The fold of each problem [P], of nearly equal sizes. Raises ValueError for fewer problems than folds."""
    if not 2 <= num_folds <= num_problems:
        raise ValueError(
            f"{num_problems} problems cannot be cut into {num_folds} folds: 2 to {num_problems} are possible"
        )
    return np.asarray(np.random.default_rng(seed).permutation(num_problems) % num_folds, dtype=np.int64)


def cross_fitted(pools: Pools, plan: Plan, folds: IntArray) -> Iterator[tuple[IntArray, Models]]:
    """The problems of each fold, with models fitted on the other folds. One pass over all if nothing is learned."""
    if not plan.needs_posterior:
        yield np.arange(len(folds)), Models()
        return
    for fold in range(int(folds.max()) + 1):
        yield np.flatnonzero(folds == fold), fit_models(pools.take(folds != fold), plan)


def pass_at(k: int, num_samples: IntArray, num_right: IntArray) -> FloatArray:
    """pass@k: the probability that at least one of k samples is right, drawn without replacement, [P].

    The unbiased estimator 1 - C(n - c, k) / C(n, k) of arXiv 2107.03374, as a product. NaN for problems with fewer
    than k samples.
    """
    wrong = (num_samples - num_right).astype(np.float64)
    missed = np.ones(len(num_samples))
    for drawn in range(k):
        missed *= np.maximum(wrong - drawn, 0) / np.maximum(num_samples - drawn, 1)
    return np.where(num_samples >= k, 1 - missed, np.nan)


def _drawn(num_problems: int, seed: int) -> IntArray:
    """All problems, or MOST_PROBLEMS of them, in order."""
    if num_problems <= MOST_PROBLEMS:
        return np.arange(num_problems)
    return np.sort(np.random.default_rng(seed).choice(num_problems, MOST_PROBLEMS, replace=False))


def _whole_pools(pools: Pools, votes: tuple[str, ...], posterior: Posterior | None) -> dict[str, FloatArray]:
    """The expected accuracy of each vote over each whole pool [P]."""
    found = {vote: np.zeros(len(pools.classes)) for vote in votes}
    for rows, part in chunks(pools):
        tally = full_tally(part)
        for vote, values in found.items():
            values[rows] = tally_accuracy(vote, tally, part.is_right, posterior)
    return found


def _confidence(pools: Pools, posterior: Posterior) -> FloatArray:
    """The largest probability of a class [P]; 0 where nobody votes."""
    found = np.zeros(len(pools.classes))
    for rows, part in chunks(pools):
        found[rows] = class_probabilities(posterior, at_prefix(prefix_tally(part), -1)).max(axis=-1, initial=0.0)
    return found


def _joined(pieces: list[tuple[IntArray, dict[str, Curve]]], rule: str, replayed: IntArray) -> Curve:
    """The curves of all folds as one, in the order of `replayed`."""
    rows = np.concatenate([kept for kept, _ in pieces])
    order = np.argsort(rows, kind="stable")
    assert (rows[order] == replayed).all(), "each problem is replayed in its own fold"
    curves = [each[rule] for _, each in pieces]
    return Curve(
        curves[0].thresholds,
        *(
            np.concatenate([getattr(curve, name) for curve in curves])[order]
            for name in ("num_samples", "num_tokens", "accuracy")
        ),
    )
