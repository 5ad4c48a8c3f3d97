"""Samples from any OpenAI-compatible endpoint, which may be slow, rate limited, or down for an hour.

A request that fails for a passing reason (no connection, 408, 409, 429, 5xx, a reply that is not one) is sent again
after longer and longer waits, until the run's patience ends. No row is lost over it. A request that the endpoint
refuses (400, 413, 422) is the row's fault, once the endpoint has answered any request.
"""

import asyncio
import itertools
import json
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, TypeAlias, TypeVar

import httpx
import openai

from actors.engines.protocol import Piece, SampleRequest
from actors.errors import EndpointDown, UserError
from algorithms.row_errors import RowError
from algorithms.sampling import FinishReason, Prompt, Sample

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 60.0
REQUEST_SECONDS: Final = 600.0
CONNECT_SECONDS: Final = 10.0
ATTEMPTS_OF_ONE: Final = 12  # for a request that fails while others succeed
REFUSALS: Final = 3  # different prompts refused before any reply: then the prompts are not at fault
VERDICT_SECONDS: Final = 30.0
FINISH_REASONS: Final[dict[str, FinishReason]] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop",
    "length": "length", "max_tokens": "length",
}  # fmt: skip
ROW_FAULTS: Final = (openai.BadRequestError, openai.UnprocessableEntityError)
PASSING: Final = (
    openai.APIConnectionError,
    openai.RateLimitError,
    openai.InternalServerError,
    openai.ConflictError,
    openai.APIResponseValidationError,
    json.JSONDecodeError,
)


Reply = TypeVar("Reply")
Tokens: TypeAlias = list[tuple[str, float]]  # text, log-probability


class _NoAnswer(Exception):
    """A reply outside the protocol, as proxies and gateways send."""


class _NoSample(Exception):
    """A reply of the protocol that holds no sample. The next one may."""


class OpenAIEngine:
    """Draws samples from `model` at `url`, with at most `concurrency` requests at once.

    A local endpoint needs no `api_key`. `patience_seconds` bounds how long the endpoint may fail to answer any request,
    `request_seconds` how long it may take for one.
    `judges_refusals`: if the endpoint refuses the first prompts, all of them, the fault is not theirs, and the run
    ends. A server, whose clients may err, leaves that out. The same seed gives the same sample only if the endpoint
    honours seeds.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str = "none",
        concurrency: int = 32,
        patience_seconds: float = 4 * 3600,
        judges_refusals: bool = True,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self.concurrency = concurrency
        self.forward_seconds = 0.0
        self._url = url
        self._model = model
        self._patience_seconds = patience_seconds
        timeout = httpx.Timeout(request_seconds, connect=min(CONNECT_SECONDS, patience_seconds))
        self._client: Any = openai.AsyncOpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=timeout)
        self._places = asyncio.Semaphore(concurrency)
        self._last_answer = time.monotonic()
        self._failing_since: float | None = None  # no request has succeeded since
        self._asks_logprobs = True
        self._has_answered = False
        self._judges_refusals = judges_refusals
        self._refused: set[int] = set()  # hashes of prompts, until a prompt is answered

    async def sample(self, request: SampleRequest) -> Sample:
        """Draw one sample, with as many attempts as it takes. Raises RowError if the endpoint refuses the prompt."""
        async with self._places:
            return await self._retried(request, self._ask)

    async def stream(self, request: SampleRequest) -> AsyncGenerator[Piece]:
        """Draw one sample, piece by piece. Only the request is retried: a stream that breaks off raises RowError."""
        async with self._places:
            reply = await self._retried(request, self._open_stream)
            parts = _StreamedSample()
            try:
                async for chunk in reply:
                    if (text := parts.add(chunk)) is not None:
                        yield Piece(text, parts.num_tokens)
                sample = parts.sample(request)
                yield Piece("", sample.num_tokens, sample)
            except (*PASSING, _NoSample, openai.APIError, httpx.TransportError) as error:
                raise RowError("engine_error", _line(error)) from None
            finally:
                await reply.close()

    def close(self) -> None:
        """Nothing to free: connections close with the process."""

    async def _retried(self, request: SampleRequest, ask: Callable[[SampleRequest], Awaitable[Reply]]) -> Reply:
        wait, begun = FIRST_WAIT_SECONDS, time.monotonic()
        for attempt in itertools.count(1):
            try:
                reply = await ask(request)
            except (*PASSING, _NoAnswer, _NoSample) as error:
                others_succeed = self._last_answer > begun or isinstance(error, _NoSample)
                if attempt >= ATTEMPTS_OF_ONE and others_succeed:
                    raise RowError("engine_error", _line(error)) from None
                await self._wait(error, wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            except openai.APIStatusError as error:
                if error.status_code == 408:
                    await self._wait(error, wait)
                    wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                elif not (isinstance(error, ROW_FAULTS) or error.status_code == 413):
                    raise UserError(f"the endpoint {self._url} refuses access: {_line(error)}") from None
                elif self._asks_logprobs and "logprob" in str(error).lower():
                    self._asks_logprobs = False  # not every endpoint reports them
                else:
                    await self._refuse(request.prompt, error)
            else:
                self._last_answer, self._has_answered = time.monotonic(), True
                self._failing_since = None
                self._refused.clear()
                return reply
        raise AssertionError

    async def _refuse(self, prompt: Prompt, error: openai.APIError) -> None:
        """A refused request is the row's fault, unless the endpoint has refused every request so far."""
        if self._has_answered or not self._judges_refusals:
            raise RowError("refused", _line(error))
        self._refused.add(hash(prompt))
        waited = 0.0
        while not self._has_answered and len(self._refused) < REFUSALS and waited < VERDICT_SECONDS:
            await asyncio.sleep(VERDICT_SECONDS / 100)
            waited += VERDICT_SECONDS / 100
        if not self._has_answered and len(self._refused) >= REFUSALS:
            raise UserError(f"the endpoint {self._url} refuses every request: {_line(error)}")
        raise RowError("refused", _line(error))

    async def _wait(self, error: Exception, seconds: float) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        silent = time.monotonic() - self._failing_since
        if silent > self._patience_seconds:
            raise EndpointDown(
                f"the endpoint {self._url} has not answered for {silent:.0f} s: {_line(error)}; "
                "repeat the command to resume the run"
            )
        asked = getattr(error, "response", None)
        header = asked.headers.get("retry-after", "") if asked is not None else ""
        if header.replace(".", "", 1).isdigit():
            seconds = min(max(seconds, float(header)), self._patience_seconds)
        logger.warning("%s: retrying in about %.0f s (%s)", self._url, seconds, _line(error))
        await asyncio.sleep(seconds * random.uniform(0.7, 1.3))  # so that requests do not all come back at once

    async def _ask(self, request: SampleRequest) -> Sample:
        started = time.monotonic()
        answer = await self._create(request)
        self.forward_seconds += (time.monotonic() - started) / self.concurrency
        return _sample(answer, request)

    async def _open_stream(self, request: SampleRequest) -> Any:
        return await self._create(request, stream=True, stream_options={"include_usage": True})

    async def _create(self, request: SampleRequest, **more: Any) -> Any:
        params = request.params
        options: dict[str, Any] = {
            "model": self._model,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_tokens,
            "seed": params.seed & 0x7FFFFFFF,  # some endpoints accept only 32 bits
            **more,
        }
        if params.stop:
            options["stop"] = list(params.stop)
        if isinstance(request.prompt, str):
            logprobs = {"logprobs": 0} if self._asks_logprobs else {}
            return await self._client.completions.create(prompt=request.prompt, **options, **logprobs)
        messages: Any = [{"role": role, "content": content} for role, content in request.prompt]
        logprobs = {"logprobs": True} if self._asks_logprobs else {}
        return await self._client.chat.completions.create(messages=messages, **options, **logprobs)


class _StreamedSample:
    """Collects the chunks of a streamed reply."""

    def __init__(self) -> None:
        self._text = ""
        self._tokens: Tokens = []
        self._num_chunks = 0
        self._finish_reason: Any = None
        self._num_tokens: int | None = None
        self._num_prompt_tokens: int | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens so far: a chunk holds one, if the endpoint does not say."""
        return len(self._tokens) or self._num_chunks

    def add(self, chunk: Any) -> str | None:
        """The text of a chunk, None if it has none."""
        if getattr(chunk, "usage", None):
            self._num_tokens = chunk.usage.completion_tokens
            self._num_prompt_tokens = chunk.usage.prompt_tokens
        if not getattr(chunk, "choices", None):
            return None
        choice = chunk.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        self._tokens += _tokens(choice)
        self._num_chunks += 1
        text = choice.text if hasattr(choice, "text") else choice.delta.content
        self._text += text or ""
        return text or None

    def sample(self, request: SampleRequest) -> Sample:
        """The whole sample. Raises _NoSample or RowError if the reply is not one."""
        num_tokens = self.num_tokens if self._num_tokens is None else self._num_tokens
        made = _made_sample(self._text, self._finish_reason, self._tokens, num_tokens, request)
        return replace(made, num_prompt_tokens=self._num_prompt_tokens)


def _sample(answer: Any, request: SampleRequest) -> Sample:
    """The sample in a reply. Raises _NoAnswer or _NoSample if there is none."""
    choices = getattr(answer, "choices", None)
    if choices is None:
        raise _NoAnswer(f"a reply without choices: {answer}")
    if not choices:
        raise _NoSample("a reply with an empty list of choices")
    choice = choices[0]
    text = choice.text if hasattr(choice, "text") else choice.message.content
    tokens = _tokens(choice)
    num_tokens = answer.usage.completion_tokens if answer.usage else len(tokens)
    made = _made_sample(text or "", choice.finish_reason, tokens, num_tokens, request)
    return replace(made, num_prompt_tokens=answer.usage.prompt_tokens if answer.usage else None)


def _made_sample(text: str, finish_reason: Any, tokens: Tokens, num_tokens: int, request: SampleRequest) -> Sample:
    if finish_reason == "content_filter":
        raise RowError("refused", "the endpoint's content filter")
    reason = FINISH_REASONS.get(str(finish_reason))
    if reason is None:
        raise _NoSample(f"the endpoint ended with {finish_reason}")
    mean = sum(logprob for _, logprob in tokens) / len(tokens) if tokens else None
    return Sample(text, num_tokens, reason, mean, tuple(tokens) if request.token_logprobs and tokens else None)


def _tokens(choice: Any) -> Tokens:
    """The tokens with their log-probabilities, or [] if the endpoint reports none. Chat and completions differ."""
    found = getattr(choice, "logprobs", None)
    if found is None:
        return []
    if getattr(found, "content", None):
        return [(token.token, token.logprob) for token in found.content]
    values = getattr(found, "token_logprobs", None) or []
    texts = getattr(found, "tokens", None) or [""] * len(values)
    return [(text, value) for text, value in zip(texts, values, strict=True) if value is not None]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
