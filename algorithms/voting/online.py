"""A vote while its samples arrive: how many to draw, when to stop, and what the answer is. No clock, no network.

Samples are drawn in an order, by index, and count in that order, whenever they finish. So the decision depends on the
samples alone and not on the load of the machine: a replay of the recorded samples decides the same. Were samples
counted as they finish, short ones would count first, and short solutions are not right as often as long ones.

Between two decisions at most `parallel` samples are on their way, or as many as the rule needs anyway. A larger window
answers sooner; a smaller one wastes fewer samples, since what is on its way at the end is cancelled. If the samples on
their way would decide the vote by agreeing with the leader, no further one is begun: it would most likely be wasted.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean
from typing import Final

import numpy as np

from algorithms.answers.classes import GrowingClasses
from algorithms.voting.policy import Policy
from algorithms.voting.posterior import class_probabilities
from algorithms.voting.stopping import Beta, Gain
from algorithms.voting.tally import Candidates, Count, Tally, count_of
from algorithms.voting.votes import is_winner, tally_totals

BY_COUNT: Final = Policy("sc", Beta())
"""The policy of a question whose samples have no scores."""


class StopReason(StrEnum):
    """Why no more samples are drawn."""

    DECIDED = "decided"  # by the rule
    MAX_SAMPLES = "max_samples"
    MAX_TOKENS = "max_tokens"
    DEADLINE = "deadline"
    FAILED = "failed"  # the engine could not draw some samples, and too few are left


@dataclass(frozen=True, slots=True)
class Limits:
    """What one question may cost. Raises ValueError if nothing could be drawn.

    `max_tokens` bounds the tokens of all samples together, and `tokens_per_sample` those of one.
    """

    max_samples: int
    parallel: int
    tokens_per_sample: int
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_samples < 1 or self.parallel < 1:
            raise ValueError(f"max_samples={self.max_samples} and parallel={self.parallel} must be at least 1")
        if self.max_tokens is not None and self.max_tokens < self.tokens_per_sample:
            raise ValueError(
                f"max_tokens={self.max_tokens} for all samples leaves no room for one of {self.tokens_per_sample}"
            )


@dataclass(frozen=True, slots=True)
class Drawn:
    """A finished sample. `answer` None: it states none. `equal_to`: the earlier answers that `answer` equals."""

    index: int
    num_tokens: int
    answer: str | None = None
    equal_to: Collection[str] = ()
    score: float | None = None
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an answer stands. `weight`: its total in the vote. `probability` that it is right, None if not calibrated."""

    answer: str
    indices: tuple[int, ...]  # of its samples
    weight: float
    share: float  # of all weight
    probability: float | None


class OnlineVote:
    """The vote on one question.

    `start` says which samples to draw now, `count` takes each finished one in the order of the indices, `fail` one that
    could not be drawn. Nothing more is needed once `stop_reason` is set.
    """

    def __init__(self, policy: Policy, limits: Limits, fallback: Policy = BY_COUNT) -> None:
        self._limits = limits
        self._policy = fitted(policy, limits.max_samples)
        self._fallback = fitted(fallback, limits.max_samples)
        self._classes = GrowingClasses()
        self._drawn: list[Drawn] = []
        self._num_started = 0
        self._in_flight: set[int] = set()
        self.num_tokens = 0
        self.num_failed = 0
        self.stop_reason: StopReason | None = None

    @property
    def policy(self) -> Policy:
        """The policy that decides now: the fallback, once a sample that votes lacks what the policy reads."""
        return self._fallback if self._policy.needs & self._tally().missing.keys() else self._policy

    @property
    def answers(self) -> list[str]:
        """The distinct answers so far, with which the next one is to be compared."""
        return self._classes.texts

    @property
    def num_counted(self) -> int:
        """Samples that count."""
        return len(self._drawn)

    @property
    def in_flight(self) -> frozenset[int]:
        """Indices of the samples on their way."""
        return frozenset(self._in_flight)

    def start(self) -> range:
        """The indices of the samples to draw now; empty while enough are on their way."""
        if self.stop_reason is not None:
            return range(0)
        limits = self._limits
        needed = max(self.policy.rule.num_to_draw(self.num_counted), limits.parallel)
        size = min(needed - len(self._in_flight), limits.max_samples - self._num_started)
        if size > 0 and self._in_flight and self._decided_by_those_on_their_way():
            size = 0
        if limits.max_tokens is not None:
            reserved = self.num_tokens + len(self._in_flight) * limits.tokens_per_sample
            affordable = (limits.max_tokens - reserved) // limits.tokens_per_sample
            if size > 0 and affordable <= 0 and not self._in_flight:
                self.stop_reason = StopReason.MAX_TOKENS
            size = min(size, affordable)
        begun = range(self._num_started, self._num_started + max(size, 0))
        self._in_flight.update(begun)
        self._num_started = begun.stop
        return begun

    def count(self, sample: Drawn) -> None:
        """Count the next sample in the order of the indices, and ask the rule."""
        self._in_flight.discard(sample.index)
        self.num_tokens += sample.num_tokens
        self._drawn.append(sample)
        self._classes.add(sample.answer, sample.equal_to)
        if self.stop_reason is not None:
            return
        if self.policy.rule(self._tally()):
            exhausted = self.num_counted >= self._limits.max_samples
            self.stop_reason = StopReason.MAX_SAMPLES if exhausted else StopReason.DECIDED
        else:
            self._check_exhausted()

    def fail(self, index: int, num_tokens: int = 0) -> None:
        """Sample `index` could not be drawn: it takes no part, and no other takes its place."""
        self._in_flight.discard(index)
        self.num_tokens += num_tokens
        self.num_failed += 1
        self._check_exhausted()

    def close(self, reason: StopReason) -> None:
        """Draw no more. Samples that are finished already may still be counted, although earlier ones are not."""
        self.stop_reason = reason

    def standings(self) -> list[Standing]:
        """The answers, the winner first, then by weight; [] if no sample states one."""
        tally = self._tally()
        policy = self.policy
        totals = tally_totals(policy.vote, tally, policy.posterior)
        wins = is_winner(totals, tally.is_present)
        probabilities = None if policy.posterior is None else class_probabilities(policy.posterior, tally)
        whole = float(totals.sum())
        members = self._members()
        order = sorted(range(len(members)), key=lambda at: (not wins[at], -totals[at], at))
        return [
            Standing(
                answer=self._drawn_by_index(members[at][0]).answer or "",
                indices=members[at],
                weight=float(totals[at]),
                share=float(totals[at]) / whole if whole > 0 else 0.0,
                probability=None if probabilities is None else float(probabilities[at]),
            )
            for at in order
        ]

    def best(self, indices: Collection[int] | None = None) -> int | None:
        """The sample to show, among `indices` or all: of the highest score, then of the likeliest tokens."""
        candidates = [each for each in self._drawn if indices is None or each.index in indices]
        return max(candidates, key=_worth).index if candidates else None

    def _decided_by_those_on_their_way(self) -> bool:
        """Whether the rule would stop if the samples on their way stated the leading answer, as its samples do."""
        leaders = self.standings()[:1]
        if not leaders:
            return False
        count, rule = self._count(), self.policy.rule
        number = self._classes.classes[[each.index for each in self._drawn].index(leaders[0].indices[0])]
        mine = [each for each in self._drawn if each.index in leaders[0].indices]
        scores = [each.score for each in mine if each.score is not None]
        logprobs = [each.logprob for each in mine if each.logprob is not None]
        for _ in self._in_flight:
            count.add(number, _mean(scores), _mean(logprobs))
            if rule(count.tally()):
                return True
        return False

    def _check_exhausted(self) -> None:
        """Stop when every sample that may be drawn was drawn."""
        if self.stop_reason is None and self._num_started >= self._limits.max_samples and not self._in_flight:
            self.stop_reason = StopReason.FAILED if self.num_failed else StopReason.MAX_SAMPLES

    def _tally(self) -> Tally:
        return self._count().tally()

    def _count(self) -> Count:
        return count_of(
            Candidates(
                self._classes.classes,
                [each.score for each in self._drawn],
                [None if each.logprob is None else min(each.logprob, 0.0) for each in self._drawn],  # rounding
            )
        )

    def _members(self) -> list[tuple[int, ...]]:
        """The indices of the samples of each class, in the tally's order."""
        found: dict[int, list[int]] = {}
        for sample, number in zip(self._drawn, self._classes.classes, strict=True):
            if number is not None:
                found.setdefault(number, []).append(sample.index)
        return [tuple(each) for each in found.values()]

    def _drawn_by_index(self, index: int) -> Drawn:
        return next(each for each in self._drawn if each.index == index)


def fitted(policy: Policy, max_samples: int) -> Policy:
    """A policy whose rule ends at `max_samples`. `gain` keeps the budget that it was learned for, if that is larger.

    Raises ValueError if `gain` was learned for less.
    """
    rule = policy.rule
    if isinstance(rule, Gain):
        if rule.maximum < max_samples:
            raise ValueError(f"the rule 'gain' was learned for {rule.maximum} samples, but max_samples={max_samples}")
        return policy
    return replace(policy, rule=replace(rule, maximum=max_samples, minimum=min(rule.minimum, max_samples)))


def margin(standings: list[Standing]) -> float:
    """How far the winner's share is above the runner-up's, from 0 to 1."""
    shares = [each.share for each in standings[:2]]
    return float(np.clip(shares[0] - sum(shares[1:]), 0, 1)) if shares else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return min(fmean(values), 1.0) if values else None


def _worth(sample: Drawn) -> tuple[float, float, int]:
    score = -math.inf if sample.score is None else sample.score
    return score, -math.inf if sample.logprob is None else sample.logprob, -sample.index
