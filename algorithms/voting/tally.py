"""What the sampled answers of a question add up to, for each class of equal answers.

A vote reads a `Tally`, never the samples. It is built at once (`tally_of`) or sample by sample (`Count`): O(1) to add
a sample, O(classes) to read the tally.

Shape legend: ... any leading axes (none for one question), K answer classes in order of first appearance, C checks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]

SURE: Final = 0.999
"""Scores count as at most this sure, and at least 1 - this: one sample never decides a vote alone."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The sampled answers of one question, in the order drawn. Raises ValueError if they do not fit together.

    `classes`: the class of each answer; None for a sample that states no parsable answer, which does not vote.
    `scores`: how far a ranker trusts each sample, from 0 to 1. `logprobs`: the mean log-probability of each sample's
    tokens. `checks`: a few numbers about each sample, such as its numbers of true and of false claims.
    """

    classes: Sequence[int | None]
    scores: Sequence[float | None] | None = None
    logprobs: Sequence[float | None] | None = None
    checks: Sequence[Sequence[float]] | None = None

    def __post_init__(self) -> None:
        for name in ("scores", "logprobs", "checks"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.classes):
                raise ValueError(f"{name} has {len(values)} entries for {len(self.classes)} candidates")
        for index, score in enumerate(self.scores or ()):
            if score is not None and not 0 <= score <= 1:
                raise ValueError(f"the score of candidate {index} is {score}, but must be between 0 and 1")
        for index, logprob in enumerate(self.logprobs or ()):
            if logprob is not None and not logprob <= 0:
                raise ValueError(f"the mean log-probability of candidate {index} is {logprob}, but must be at most 0")
        if self.checks and len({len(each) for each in self.checks}) > 1:
            raise ValueError("every candidate must have the same number of checks")


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over the samples of each class. Where a class has none, all its sums are 0 and it takes no part.

    `num_seen` [...]: samples drawn, voteless ones included. `counts` [..., K]. `scores`, `log_odds`, `best_log_odds`
    [..., K]: sum of the scores, sum and maximum of log(s / (1 - s)), with s clipped to `SURE`. `probabilities`
    [..., K]: sum of exp(mean log p). `checks` [..., K, C]: sums. `is_first` [..., K]: the class of the first sample.
    `run` [...]: how many of the last samples agree; 0 after a voteless one. A sum is NaN if a voting sample lacks the
    value, and `missing` then names that sample.
    """

    num_seen: IntArray
    counts: FloatArray
    scores: FloatArray
    log_odds: FloatArray
    best_log_odds: FloatArray
    probabilities: FloatArray
    checks: FloatArray
    is_first: BoolArray
    run: IntArray
    missing: dict[str, int] = field(default_factory=dict)

    @property
    def is_present(self) -> BoolArray:
        """The classes that at least one sample states, [..., K]."""
        return self.counts > 0

    def require(self, *names: str) -> None:
        """Raise ValueError, naming the first candidate that lacks one of the `names` ("score", "log-probability")."""
        for name in names:
            if name in self.missing:
                raise ValueError(f"candidate {self.missing[name]} has no {name}, but every vote here needs one")


@dataclass(slots=True)
class Count:
    """The growing tally of one question. `numbers` maps the caller's class numbers to positions on axis K."""

    numbers: dict[int, int] = field(default_factory=dict)
    num_seen: int = 0
    run: int = 0
    _last: int | None = None
    _first: int | None = None
    _sums: list[list[float]] = field(default_factory=list)
    _checks: list[list[float]] = field(default_factory=list)
    _missing: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        answer_class: int | None,
        score: float | None = None,
        logprob: float | None = None,
        checks: Sequence[float] = (),
    ) -> None:
        """Count one more sample."""
        self.num_seen += 1
        if answer_class is None:
            self.run = 0
            self._last = None
            return
        self.run = self.run + 1 if answer_class == self._last else 1
        self._last = answer_class
        if self.num_seen == 1:
            self._first = answer_class
        if score is None:
            self._missing.setdefault("score", self.num_seen - 1)
        if logprob is None:
            self._missing.setdefault("log-probability", self.num_seen - 1)
        if answer_class not in self.numbers:
            self.numbers[answer_class] = len(self._sums)
            self._sums.append([0.0, 0.0, 0.0, -math.inf, 0.0])
            self._checks.append([0.0] * len(checks))
        position = self.numbers[answer_class]
        sums = self._sums[position]
        value = math.nan if score is None else score
        odds = log_odds(value)
        sums[0] += 1
        sums[1] += value
        sums[2] += odds
        sums[3] = math.nan if math.isnan(odds) or math.isnan(sums[3]) else max(sums[3], odds)
        sums[4] += math.nan if logprob is None else math.exp(logprob)
        for index, check in enumerate(checks):
            self._checks[position][index] += check

    def tally(self) -> Tally:
        """The tally so far; K is the number of classes seen."""
        sums = np.array(self._sums, dtype=np.float64).reshape(len(self._sums), 5)
        first = None if self._first is None else self.numbers[self._first]
        return Tally(
            num_seen=np.asarray(self.num_seen, dtype=np.int64),
            counts=sums[:, 0],
            scores=sums[:, 1],
            log_odds=sums[:, 2],
            best_log_odds=sums[:, 3],
            probabilities=sums[:, 4],
            checks=np.array(self._checks, dtype=np.float64).reshape(len(self._sums), -1 if self._sums else 0),
            is_first=np.arange(len(self._sums)) == first,
            run=np.asarray(self.run, dtype=np.int64),
            missing=dict(self._missing),
        )


def tally_of(candidates: Candidates) -> Tally:
    """The tally of all candidates of a question."""
    return count_of(candidates).tally()


def count_of(candidates: Candidates) -> Count:
    """All candidates of a question, counted in the order drawn."""
    count = Count()
    for index, answer_class in enumerate(candidates.classes):
        count.add(
            answer_class,
            None if candidates.scores is None else candidates.scores[index],
            None if candidates.logprobs is None else candidates.logprobs[index],
            () if candidates.checks is None else candidates.checks[index],
        )
    return count


def log_odds(score: float) -> float:
    """log(s / (1 - s)) with the score clipped to `SURE`; NaN stays NaN."""
    if math.isnan(score):
        return score
    clipped = min(max(score, 1 - SURE), SURE)
    return math.log(clipped / (1 - clipped))
