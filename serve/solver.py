"""Adaptive self-consistency on one question: draws samples, reads and ranks each, and stops when the rule says so.

What is decided is `algorithms.voting.online`; here is who waits for whom. Each sample is a request of its own to the
student, so that what is still running when the vote is decided can be cancelled one by one.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from opentelemetry import trace

from actors.engines.protocol import SampleRequest
from algorithms.answers.kinds import DEFAULT
from algorithms.ranking.solutions import Solution
from algorithms.sampling import Prompt, Sample, SamplingParams, sample_seed
from algorithms.voting.online import Drawn, Limits, OnlineVote, Standing, StopReason
from algorithms.voting.policy import Policy
from serve.protocol import Busy, DeadlineExceeded, Ranker, SampleFailed, Score, ServeError, Student
from serve.reading import AnswerReader
from serve.telemetry import IngressMetrics

TICK_SECONDS: Final = 0.5  # between two reports of progress
BUSY_SECONDS: Final = 0.25  # before a sample asks a full student again

State: TypeAlias = Literal["running", "counted", "finished", "failed", "cancelled"]
tracer = trace.get_tracer("sluice")


@dataclass(frozen=True, slots=True)
class Question:
    """One question to vote on. `text` is what the ranker reads, `prompt` what the student does."""

    text: str
    prompt: Prompt
    prompt_key: str
    params: SamplingParams
    limits: Limits
    policy: Policy
    fallback: Policy
    deadline_seconds: float
    wants_logprobs: bool = False
    kind: str = DEFAULT
    kind_argument: str | None = None


@dataclass(slots=True)
class SampleState:
    """A sample of the question, for those who watch."""

    index: int
    state: State = "running"
    num_tokens: int = 0
    answer: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How the vote stands."""

    samples: tuple[SampleState, ...]
    standings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Solved:
    """How the vote ended. `sample` is the winning answer's best one, or the best of all if none states an answer."""

    sample: Sample
    sample_index: int
    samples: tuple[SampleState, ...]
    standings: tuple[Standing, ...]
    stop_reason: StopReason
    policy: Policy
    num_counted: int
    num_tokens: int
    num_tokens_cancelled: int
    ranker_problem: str | None
    seconds: float

    @property
    def answer(self) -> str | None:
        """The answer that won, None if no sample states one."""
        return self.standings[0].answer if self.standings else None


@dataclass(slots=True)
class _Finished:
    """A sample that was drawn, read and ranked, or the error instead."""

    sample: Sample | None = None
    answer: str | None = None
    score: Score = field(default_factory=lambda: Score(None))
    error: ServeError | None = None


class Solver:
    """Solves questions with one student and, if there is one, a ranker."""

    def __init__(self, student: Student, ranker: Ranker | None, reader: AnswerReader, metrics: IngressMetrics) -> None:
        self._student = student
        self._ranker = ranker
        self._reader = reader
        self._metrics = metrics

    async def solve(self, question: Question) -> AsyncGenerator[Progress | Solved]:
        """How the vote goes, and at last how it ended. Closing the iterator cancels all samples.

        Raises ServeError if there is nothing to answer with.
        """
        run = _Run(self._student, self._ranker, self._reader, self._metrics, question)
        # Not as the current span: a generator may be continued in another task than it was started in.
        span = tracer.start_span("sluice.vote")
        try:
            async with aclosing(run.votes()) as votes:
                async for progress in votes:
                    yield progress
            await run.cancel()
            solved = run.solved()
            span.set_attributes({"sluice.samples": solved.num_counted, "sluice.stop_reason": solved.stop_reason.value})
        finally:
            await run.cancel()
            span.end()
        yield run.progress()
        yield solved


class _Run:
    """One question on its way."""

    def __init__(
        self,
        student: Student,
        ranker: Ranker | None,
        reader: AnswerReader,
        metrics: IngressMetrics,
        question: Question,
    ) -> None:
        self._student = student
        self._ranker = ranker
        self._reader = reader
        self._metrics = metrics
        self._question = question
        policy = question.policy if ranker is not None else question.fallback
        self._vote = OnlineVote(policy, question.limits, question.fallback)
        self._states: list[SampleState] = []
        self._tasks: dict[asyncio.Task[_Finished], int] = {}
        self._leaving: list[asyncio.Task[_Finished]] = []  # cancelled, after their samples were counted
        self._drawn: dict[int, _Finished] = {}  # perhaps not read or ranked yet
        self._finished: dict[int, _Finished] = {}  # not counted yet
        self._counted: dict[int, _Finished] = {}
        self._next = 0  # the index that counts next
        self._num_waiting = 0  # samples for which the student has no place
        self._error: ServeError | None = None
        self._began = time.monotonic()
        self._num_tokens_cancelled = 0

    async def votes(self) -> AsyncGenerator[Progress]:
        """Draw, count and report until the vote is decided. Raises ServeError if it cannot be."""
        deadline = self._began + self._question.deadline_seconds
        while True:
            for index in self._vote.start():
                self._states.append(SampleState(index))
                self._tasks[asyncio.create_task(self._draw(index))] = index
            if self._vote.stop_reason is not None:
                return
            left = deadline - time.monotonic()
            done, _ = await asyncio.wait(
                self._tasks, timeout=max(0.0, min(left, TICK_SECONDS)), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                self._finish(self._tasks.pop(task), task.result())
            await self._count(deadline)
            if self._vote.stop_reason is None and time.monotonic() >= deadline:
                self._vote.close(StopReason.DEADLINE)
                self._count_late()
            yield self.progress()
            if self._vote.stop_reason is not None:
                return

    def progress(self) -> Progress:
        """How the vote stands."""
        return Progress(tuple(map(replace, self._states)), tuple(self._vote.standings()))

    async def cancel(self) -> None:
        """Cancel what still runs, and wait until it is."""
        for task, index in self._tasks.items():
            state = self._states[index]
            state.state = "cancelled"
            self._num_tokens_cancelled += state.num_tokens
            task.cancel()
        if ending := [*self._tasks, *self._leaving]:
            await asyncio.wait(ending)
        for index in self._finished:  # drawn in vain
            sample = self._finished[index].sample
            self._num_tokens_cancelled += sample.num_tokens if sample is not None else 0
        self._tasks, self._finished = {}, {}

    def solved(self) -> Solved:
        """How the vote ended. Raises ServeError if no sample was drawn."""
        vote = self._vote
        assert vote.stop_reason is not None
        standings = tuple(vote.standings())
        shown = vote.best(standings[0].indices if standings else None)
        if shown is None:
            raise self._error or DeadlineExceeded(
                f"no sample was finished within {self._question.deadline_seconds:g} s"
            )
        sample = self._counted[shown].sample
        assert sample is not None
        problems = (each.score.problem for each in self._counted.values())
        return Solved(
            sample=sample,
            sample_index=shown,
            samples=tuple(self._states),
            standings=standings,
            stop_reason=vote.stop_reason,
            policy=vote.policy,
            num_counted=vote.num_counted,
            num_tokens=vote.num_tokens,
            num_tokens_cancelled=self._num_tokens_cancelled,
            ranker_problem=next((each for each in problems if each is not None), None),
            seconds=time.monotonic() - self._began,
        )

    async def _draw(self, index: int) -> _Finished:
        """Draw one sample, read its answer and rank it."""
        question = self._question
        seed = sample_seed(question.params.seed, question.prompt_key, index)
        request = SampleRequest(question.prompt, replace(question.params, seed=seed), question.wants_logprobs)
        try:
            sample = await self._sample(index, request)
        except ServeError as error:
            return _Finished(error=error)
        finished = self._drawn[index] = _Finished(sample)
        finished.answer = await self._reader.read(question.kind, question.kind_argument, sample.text)
        if self._ranker is not None:
            finished.score = Score(None, "the deadline came before the score")
            started = time.monotonic()
            finished.score = await self._ranker.score(
                Solution(question.text, sample.text, finished.answer), question.kind
            )
            self._metrics.ranked(time.monotonic() - started)
        return finished

    async def _sample(self, index: int, request: SampleRequest) -> Sample:
        """One sample. While the student is full it waits for a place, unless all samples of the vote do."""
        state = self._states[index]
        while True:
            try:
                async with aclosing(self._student.draw(request, self._question.prompt_key, with_text=False)) as pieces:
                    async for piece in pieces:
                        state.num_tokens = piece.num_tokens
                        if piece.sample is not None:
                            return piece.sample
                raise SampleFailed("the student ended a sample without its last piece")
            except Busy:
                self._num_waiting += 1
                try:
                    # One sample alone says so: the next to be counted. The others may still get their places.
                    if index == self._next and not self._counted and self._num_waiting >= len(self._tasks):
                        raise
                    await asyncio.sleep(BUSY_SECONDS * random.uniform(0.7, 1.3))
                finally:
                    self._num_waiting -= 1

    def _finish(self, index: int, finished: _Finished) -> None:
        state = self._states[index]
        state.state = "failed" if finished.sample is None else "finished"
        state.answer, state.score = finished.answer, finished.score.value
        self._finished[index] = finished

    async def _equal_to(self, answer: str | None, deadline: float) -> Sequence[str]:
        """The earlier answers that an answer equals; at the deadline, only the same text."""
        if answer is None:
            return ()
        comparing = self._reader.equal_to(self._question.kind, answer, self._vote.answers)
        try:
            return await asyncio.wait_for(comparing, max(deadline - time.monotonic(), 0))
        except TimeoutError:
            return [answer] if answer in self._vote.answers else []

    async def _count(self, deadline: float) -> None:
        """Count finished samples, in the order of their indices."""
        while self._next in self._finished and self._vote.stop_reason is None:
            index, self._next = self._next, self._next + 1
            finished = self._finished[index]
            if finished.error is not None:
                self._fail(index, finished.error)
                continue
            self._vote.count(self._taken(index, await self._equal_to(finished.answer, deadline)))

    def _count_late(self) -> None:
        """At the deadline, count what is drawn: unread, unranked, before others. Only equal texts are equal now."""
        for task, index in list(self._tasks.items()):
            if index in self._drawn:
                task.cancel()
                self._leaving.append(task)
                del self._tasks[task]
                self._finish(index, self._drawn[index])
        for index in sorted(self._finished):
            if self._finished[index].sample is not None:
                answer = self._finished[index].answer
                self._vote.count(
                    self._taken(index, [answer] if answer is not None and answer in self._vote.answers else [])
                )

    def _fail(self, index: int, error: ServeError) -> None:
        del self._finished[index]
        self._error = self._error or error
        self._vote.fail(index, self._states[index].num_tokens)
        if not isinstance(error, SampleFailed) and self._vote.num_counted == 0:
            raise error  # the others will not fare better

    def _taken(self, index: int, equal_to: Sequence[str]) -> Drawn:
        """A finished sample as the vote takes it."""
        finished = self._finished.pop(index)
        sample = finished.sample
        assert sample is not None
        self._counted[index] = finished
        self._states[index].state = "counted"
        return Drawn(index, sample.num_tokens, finished.answer, equal_to, finished.score.value, sample.mean_logprob)
