"""Recorded samples of many problems as arrays, and the tally after every sample in a given order.

Shape legend: P problems, N samples (the largest pool; shorter ones are padded), K answer classes, C checks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from algorithms.voting.tally import SURE, BoolArray, FloatArray, IntArray, Tally

CHUNK: Final = 256
"""Problems whose prefix tallies are held at once: a few megabytes, so that they stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Pools:
    """Recorded samples of all problems. Padding has `is_drawn` False and class -1.

    `classes` [P, N]: -1 for a voteless sample. `scores`, `logprobs`, `tokens` [P, N]: NaN where missing, except that
    tokens default to 1. `checks` [P, N, C]. `is_right` [P, K]: most of the graded samples of the class are correct
    (at least half of them; a class without a graded sample counts as wrong). `num_classes` = K.
    """

    classes: IntArray
    scores: FloatArray
    logprobs: FloatArray
    checks: FloatArray
    tokens: FloatArray
    is_drawn: BoolArray
    is_right: BoolArray

    @property
    def sizes(self) -> IntArray:
        """The number of samples of each problem, [P]."""
        return np.asarray(self.is_drawn.sum(axis=1), dtype=np.int64)

    @property
    def has_scores(self) -> bool:
        """Whether every sample that votes has a score."""
        return not (np.isnan(self.scores) & (self.classes >= 0)).any()

    def take(self, problems: IntArray | BoolArray) -> "Pools":
        """The pools of some problems."""
        return Pools(
            self.classes[problems],
            self.scores[problems],
            self.logprobs[problems],
            self.checks[problems],
            self.tokens[problems],
            self.is_drawn[problems],
            self.is_right[problems],
        )

    def first(self, num_samples: int) -> "Pools":
        """The pools with at most the first `num_samples` samples of each problem."""
        return replace(
            self,
            classes=self.classes[:, :num_samples],
            scores=self.scores[:, :num_samples],
            logprobs=self.logprobs[:, :num_samples],
            checks=self.checks[:, :num_samples],
            tokens=self.tokens[:, :num_samples],
            is_drawn=self.is_drawn[:, :num_samples],
        )


def random_orders(pools: Pools, num_orders: int, seed: int) -> Iterator[IntArray]:
    """Orders [P, N] of each problem's own samples, padding last. Deterministic in the seed."""
    generator = np.random.default_rng(seed)
    for _ in range(num_orders):
        keys = np.where(pools.is_drawn, generator.random(pools.classes.shape), 2.0)
        yield keys.argsort(axis=1, kind="stable")


def shuffled(pools: Pools, order: IntArray) -> Pools:
    """The pools with the samples of each problem in another order, [P, N]."""
    return Pools(
        np.take_along_axis(pools.classes, order, axis=1),
        np.take_along_axis(pools.scores, order, axis=1),
        np.take_along_axis(pools.logprobs, order, axis=1),
        np.take_along_axis(pools.checks, order[..., None], axis=1),
        np.take_along_axis(pools.tokens, order, axis=1),
        np.take_along_axis(pools.is_drawn, order, axis=1),
        pools.is_right,
    )


def chunks(pools: Pools) -> Iterator[tuple[IntArray, Pools]]:
    """Chunks of similar problems, with their row numbers and K cut to the most classes among them.

    Most problems have few classes. Sorting by their number makes K small in most chunks.
    """
    num_classes = pools.classes.max(axis=1) + 1
    rows = np.argsort(num_classes, kind="stable")
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        most = max(int(num_classes[chunk].max()), 1)
        part = pools.take(chunk)
        yield chunk, replace(part, is_right=part.is_right[:, :most])


def prefix_tally(pools: Pools) -> Tally:
    """The tally after each sample, [P, N, ...]. Past the end of a pool it repeats the last one."""
    num_classes = pools.is_right.shape[1]
    is_class = pools.classes[..., None] == np.arange(num_classes)  # [P, N, K]
    votes = is_class.any(axis=-1)
    odds = np.clip(pools.scores, 1 - SURE, SURE)
    odds = np.log(odds / (1 - odds))
    best = np.maximum.accumulate(np.where(is_class, odds[..., None], -np.inf), axis=1)
    missing = {}
    for name, values in (("score", pools.scores), ("log-probability", pools.logprobs)):
        lacks = votes & np.isnan(values)
        if lacks.any():
            missing[name] = int(lacks.any(axis=0).argmax())
    return Tally(
        num_seen=pools.is_drawn.cumsum(axis=1),
        counts=is_class.cumsum(axis=1).astype(np.float64),
        scores=_running(is_class, pools.scores),
        log_odds=_running(is_class, odds),
        best_log_odds=np.where(best == -np.inf, 0.0, best),
        probabilities=_running(is_class, np.exp(pools.logprobs)),
        checks=np.where(is_class[..., None], pools.checks[:, :, None, :], 0.0).cumsum(axis=1),
        is_first=np.broadcast_to(is_class[:, :1], is_class.shape),
        run=_runs(pools.classes, pools.is_drawn),
        missing=missing,
    )


def full_tally(pools: Pools) -> Tally:
    """The tally of each whole pool, [P, ...]."""
    return at_prefix(prefix_tally(pools), -1)


def at_prefix(tally: Tally, index: int | IntArray) -> Tally:
    """The tallies at some prefixes, [P, ...], of a prefix tally [P, N, ...]; index 0 is after the first sample.

    An array of indices keeps the axis N, with these prefixes only.
    """
    return Tally(
        tally.num_seen[:, index],
        tally.counts[:, index],
        tally.scores[:, index],
        tally.log_odds[:, index],
        tally.best_log_odds[:, index],
        tally.probabilities[:, index],
        tally.checks[:, index],
        tally.is_first[:, index],
        tally.run[:, index],
        tally.missing,
    )


def _running(is_class: BoolArray, values: FloatArray) -> FloatArray:
    return np.where(is_class, values[..., None], 0.0).cumsum(axis=1)


def _runs(classes: IntArray, is_drawn: BoolArray) -> IntArray:
    """How many of the last samples agree, [P, N]."""
    runs = np.zeros(classes.shape, dtype=np.int64)
    for index in range(classes.shape[1]):
        votes = classes[:, index] >= 0
        if index == 0:
            runs[:, 0] = votes
            continue
        agrees = classes[:, index] == classes[:, index - 1]
        grown = np.where(votes, np.where(agrees, runs[:, index - 1] + 1, 1), 0)
        runs[:, index] = np.where(is_drawn[:, index], grown, runs[:, index - 1])
    return runs
