"""From a validated request to what it is answered with: the one place that knows students, ranker, policies, limits."""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from actors.engines.protocol import Piece, SampleRequest
from algorithms.answers.kinds import KINDS, MATHEMATICAL
from algorithms.prompts import INSTRUCTION, PromptStyle
from algorithms.sampling import Prompt, Sample, SamplingParams, sample_seed
from algorithms.voting.online import Limits
from serve.api.errors import ApiError
from serve.api.protection import Admission
from serve.api.replies import AdaptiveReport, Answered, report_of
from serve.api.requests import ChatRequest, CompletionRequest, SamplingFields
from serve.policies import Policies
from serve.protocol import DeadlineExceeded, Ranker, Student
from serve.reading import AnswerReader
from serve.settings import AdaptiveSettings, LimitSettings
from serve.solver import Progress, Question, Solved, Solver
from serve.telemetry import IngressMetrics

PLAIN_TEMPERATURE: Final = 1.0  # OpenAI's default
QUEUED: Final = 64  # pieces that wait for a slow client

Event: TypeAlias = Progress | Answered
TextEvent: TypeAlias = tuple[int, str] | Answered  # choice and piece of its text


@dataclass(frozen=True)
class KnownStudent:
    """A student, what it is (for /v1/models), and the prompt that it was trained with."""

    student: Student
    lineage: Mapping[str, Any]
    instruction: str = INSTRUCTION
    template: str | None = None


@dataclass(frozen=True)
class Service:
    """Answers requests."""

    students: Mapping[str, KnownStudent]
    ranker: Ranker | None
    reader: AnswerReader
    policies: Policies
    adaptive: AdaptiveSettings
    limits: LimitSettings
    admission: Admission
    metrics: IngressMetrics
    started_at: int
    metrics_text: Callable[[], Awaitable[str]]
    health: Callable[[], Awaitable[dict[str, Any]]]
    log_requests: bool = False

    def student(self, name: str) -> KnownStudent:
        """A student by name. Raises ApiError with status 404."""
        if name not in self.students:
            known = ", ".join(self.students)
            raise ApiError(
                404, f"there is no model {name[:100]!r}; there are {known}", code="model_not_found", param="model"
            )
        return self.students[name]

    async def vote(self, request: ChatRequest | CompletionRequest) -> AsyncGenerator[Event]:
        """How a vote goes, and at last its answer."""
        known = self.student(request.model)
        question = self._question(request, known)
        solver = Solver(known.student, self.ranker, self.reader, self.metrics)
        async with aclosing(solver.solve(question)) as events:
            async for event in events:
                if isinstance(event, Solved):
                    yield self._solved(request.model, question, event)
                else:
                    yield event

    async def plain(self, request: ChatRequest | CompletionRequest) -> AsyncGenerator[TextEvent]:
        """The pieces of plain samples, each with the number of its choice, and at last all of them."""
        known = self.student(request.model)
        prompt = self._prompt(request, known, None)
        key = prompt_key(prompt)
        params = self._params(request, PLAIN_TEMPERATURE)
        requests = [
            SampleRequest(
                prompt, replace(params, seed=sample_seed(params.seed, key, index)), bool(_wants_logprobs(request))
            )
            for index in range(request.n)
        ]
        samples: dict[int, Sample] = {}
        async with aclosing(_together(known.student, requests, key, self.limits.max_deadline_seconds)) as pieces:
            async for index, piece in pieces:
                if piece.text:
                    yield index, piece.text
                if piece.sample is not None:
                    samples[index] = piece.sample
        ordered = [samples[index] for index in range(request.n)]
        yield Answered(samples=ordered, num_tokens=sum(sample.num_tokens for sample in ordered))

    def _solved(self, model: str, question: Question, solved: Solved) -> Answered:
        report: AdaptiveReport = report_of(solved, question.limits.max_samples, self.ranker is not None)
        self.metrics.voted(model, report.stop_reason, report.samples.used, report.tokens_saved)
        return Answered(samples=[solved.sample], num_tokens=report.tokens, report=report)

    def _question(self, request: ChatRequest | CompletionRequest, known: KnownStudent) -> Question:
        """What is voted on. Raises ApiError if the request asks for what cannot be done."""
        wanted, defaults, limits = request.vote, self.adaptive, self.limits
        params = self._params(request, defaults.temperature)
        max_samples = wanted.max_samples or defaults.max_samples
        _check_limit("adaptive.max_samples", max_samples, limits.max_samples)
        deadline = wanted.deadline_seconds or defaults.deadline_seconds
        _check_limit("adaptive.deadline_seconds", deadline, limits.max_deadline_seconds)
        if params.temperature == 0:
            max_samples = 1  # all samples are the same
        min_samples = None if wanted.min_samples is None else min(wanted.min_samples, max_samples)
        try:
            policies = self.policies.chosen(max_samples, min_samples, wanted.confidence)
            vote_limits = Limits(
                max_samples, wanted.parallel or defaults.parallel, params.max_tokens, wanted.max_total_tokens
            )
        except ValueError as error:
            raise ApiError(400, str(error), param="adaptive") from None
        kind = wanted.answer.kind
        prompt = self._prompt(request, known, kind)
        return Question(
            text=_question_text(request),
            prompt=prompt,
            prompt_key=prompt_key(prompt),
            params=params,
            wants_logprobs=_wants_logprobs(request),
            limits=vote_limits,
            policy=policies.scored,
            fallback=policies.counted,
            deadline_seconds=deadline,
            kind=kind,
            kind_argument=wanted.answer.field,
        )

    def _params(self, request: SamplingFields, temperature: float) -> SamplingParams:
        max_tokens = request.max_tokens or getattr(request, "max_completion_tokens", None) or self.adaptive.max_tokens
        _check_limit("max_tokens", max_tokens, self.limits.max_tokens)
        _check_limit("n", request.n, self.limits.max_samples)
        return SamplingParams(
            temperature=temperature if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            max_tokens=max_tokens,
            stop=request.stops,
            seed=random.getrandbits(63) if request.seed is None else request.seed,
        )

    def _prompt(self, request: ChatRequest | CompletionRequest, known: KnownStudent, kind: str | None) -> Prompt:
        """The student's prompt. A vote (`kind`) adds the instruction to state an answer that can be read."""
        if isinstance(request, CompletionRequest):
            prompt: Prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
        else:
            messages = tuple(message.as_message() for message in request.messages)
            role, last = messages[-1]
            if kind is not None and role != "user":
                raise ApiError(400, "a vote needs a last message of the user", param="messages")
            if known.template is not None:
                if len(messages) > 1:
                    message = "this student was trained on a text template: send one message of the user, nothing else"
                    raise ApiError(400, message, param="messages")
                prompt = PromptStyle(template=known.template).prompt(last)
            else:
                instruction = "" if kind is None else _instruction(kind, known.instruction)
                prompt = (*messages[:-1], (role, f"{last}\n\n{instruction}" if instruction else last))
        size = len(prompt) if isinstance(prompt, str) else sum(len(content) for _, content in prompt)
        _check_limit("the prompt's number of characters", size, self.limits.max_prompt_characters)
        return prompt


async def _together(
    student: Student, requests: list[SampleRequest], key: str, seconds: float
) -> AsyncGenerator[tuple[int, Piece]]:
    """The pieces of several samples as they come, with the number of the sample. The first error cancels the rest.

    Raises DeadlineExceeded after so many seconds. (`asyncio.timeout` belongs to one task, but a stream is begun in one
    and continued in another.)
    """
    deadline = time.monotonic() + seconds
    queue: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue(maxsize=QUEUED)

    async def draw(index: int, request: SampleRequest) -> None:
        try:
            async with aclosing(student.draw(request, key, with_text=True)) as pieces:
                async for piece in pieces:
                    await queue.put((index, piece))
        except Exception as error:  # noqa: BLE001  raised where the queue is read
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(draw(index, request)) for index, request in enumerate(requests)]
    try:
        num_left = len(tasks)
        while num_left:
            try:
                item = await asyncio.wait_for(queue.get(), max(deadline - time.monotonic(), 0))
            except TimeoutError:
                raise DeadlineExceeded(f"not finished within {seconds:g} s") from None
            if item is None:
                num_left -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _instruction(kind: str, trained: str) -> str:
    """The text below a question: the student's own for mathematics, the kind's for others."""
    return trained if kind in MATHEMATICAL else KINDS[kind].instruction


def _question_text(request: ChatRequest | CompletionRequest) -> str:
    if isinstance(request, CompletionRequest):
        return request.prompt if isinstance(request.prompt, str) else request.prompt[0]
    return request.messages[-1].as_message()[1]


def _wants_logprobs(request: ChatRequest | CompletionRequest) -> bool:
    return request.logprobs is not None and request.logprobs is not False


def prompt_key(prompt: Prompt) -> str:
    """The same for the same prompt, so that its samples share a replica."""
    return hashlib.blake2b(repr(prompt).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _check_limit(name: str, value: float, most: float) -> None:
    if value > most:
        raise ApiError(400, f"{name} is {value:g}, and this server allows {most:g}", code="limit_exceeded", param=name)
