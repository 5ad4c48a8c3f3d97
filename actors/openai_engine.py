"""Samples from any OpenAI-compatible endpoint, which may be slow, rate limited or gone for an hour.

A request that fails for a reason that passes (no connection, 408, 409, 429, 5xx, an answer that is none) is sent
again, later and later, until the patience of the run is at an end; no row is lost over it. A request that the
endpoint refuses as such (400, 413, 422) is the row's fault, once the endpoint has answered any.
"""

import asyncio
import itertools
import json
import logging
import random
import time
from typing import Any, Final

import openai

from actors.complaint import Complaint
from actors.engine_protocol import SampleRequest
from algorithms.row_errors import RowError
from algorithms.sampling import FinishReason, Prompt, Sample, SamplingParams

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 60.0
REQUEST_SECONDS: Final = 600.0
ATTEMPTS_OF_ONE: Final = 12  # for a request that fails while others do not
REFUSALS: Final = 3  # different prompts refused before any answer: not theirs is the fault
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


class _NoAnswer(Exception):
    """Something else than the protocol's answer: what proxies and gateways say instead of one."""


class _NoSample(Exception):
    """An answer as the protocol wants it that holds no sample, and may hold one next time."""


class OpenAIEngine:
    """Draws samples from `model` at `url`, `concurrency` requests at once.

    Endpoints of one's own need no `api_key`. `patience_seconds` is how long the endpoint
    may answer nothing at all. Same seed, same sample only as far as the endpoint keeps its seeds.
    """

    def __init__(
        self,
        url: str,
        model: str,
        params: SamplingParams,
        *,
        api_key: str = "none",
        concurrency: int = 32,
        patience_seconds: float = 4 * 3600,
    ) -> None:
        self.concurrency = concurrency
        self.forward_seconds = 0.0
        self._url = url
        self._model = model
        self._params = params
        self._patience_seconds = patience_seconds
        self._client: Any = openai.AsyncOpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=REQUEST_SECONDS)
        self._places = asyncio.Semaphore(concurrency)
        self._last_answer = time.monotonic()
        self._asks_logprobs = True
        self._has_answered = False
        self._refused: set[Prompt] = set()

    async def sample(self, request: SampleRequest) -> Sample:
        """Draw one sample, however often it takes to ask. Raises RowError for a prompt the endpoint refuses."""
        async with self._places:
            wait, begun = FIRST_WAIT_SECONDS, time.monotonic()
            for attempt in itertools.count(1):
                try:
                    sample = await self._ask(request)
                except (*PASSING, _NoAnswer, _NoSample) as error:
                    others_are_answered = self._last_answer > begun or isinstance(error, _NoSample)
                    if attempt >= ATTEMPTS_OF_ONE and others_are_answered:
                        raise RowError("engine_error", _line(error)) from None  # others are answered meanwhile
                    await self._wait(error, wait)
                    wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                except openai.APIStatusError as error:
                    if error.status_code == 408:
                        await self._wait(error, wait)
                        wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                    elif not (isinstance(error, ROW_FAULTS) or error.status_code == 413):
                        raise Complaint(f"the endpoint {self._url} says no: {_line(error)}") from None
                    elif self._asks_logprobs and "logprob" in str(error).lower():
                        self._asks_logprobs = False  # not every endpoint gives them
                    else:
                        await self._refuse(request.prompt, error)
                else:
                    self._last_answer, self._has_answered = time.monotonic(), True
                    return sample
            raise AssertionError

    async def _refuse(self, prompt: Prompt, error: openai.APIError) -> None:
        """A refused request is the row's fault, unless the endpoint has refused everything so far."""
        self._refused.add(prompt)
        waited = 0.0
        while not self._has_answered and len(self._refused) < REFUSALS and waited < VERDICT_SECONDS:
            await asyncio.sleep(VERDICT_SECONDS / 100)
            waited += VERDICT_SECONDS / 100
        if not self._has_answered and len(self._refused) >= REFUSALS:
            raise Complaint(f"the endpoint {self._url} refuses every request: {_line(error)}")
        raise RowError("refused", _line(error))

    async def _wait(self, error: Exception, seconds: float) -> None:
        silent = time.monotonic() - self._last_answer
        if silent > self._patience_seconds:
            raise Complaint(
                f"the endpoint {self._url} has not answered for {silent:.0f} s: {_line(error)}; "
                "the same command goes on where it stopped"
            )
        asked = getattr(error, "response", None)
        header = asked.headers.get("retry-after", "") if asked is not None else ""
        if header.replace(".", "", 1).isdigit():
            seconds = min(max(seconds, float(header)), self._patience_seconds)
        logger.warning("%s: asking again in about %.0f s (%s)", self._url, seconds, _line(error))
        await asyncio.sleep(seconds * random.uniform(0.7, 1.3))  # so that they do not all come back at once

    async def _ask(self, request: SampleRequest) -> Sample:
        started = time.monotonic()
        params = self._params
        options: dict[str, Any] = {
            "model": self._model,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_tokens,
            "seed": request.seed & 0x7FFFFFFF,  # some endpoints keep 32 bits
        }
        if params.stop:
            options["stop"] = list(params.stop)
        if isinstance(request.prompt, str):
            logprobs = {"logprobs": 0} if self._asks_logprobs else {}
            answer: Any = await self._client.completions.create(prompt=request.prompt, **options, **logprobs)
        else:
            messages: Any = [{"role": role, "content": content} for role, content in request.prompt]
            logprobs = {"logprobs": True} if self._asks_logprobs else {}
            answer = await self._client.chat.completions.create(messages=messages, **options, **logprobs)
        self.forward_seconds += (time.monotonic() - started) / self.concurrency
        return _sample(answer)


def _sample(answer: Any) -> Sample:
    """The sample in an answer. Raises _NoAnswer or _NoSample where there is none."""
    choices = getattr(answer, "choices", None)
    if choices is None:
        raise _NoAnswer(f"an answer without choices: {answer}")
    if not choices:
        raise _NoSample("an answer with no choices in it")
    choice = choices[0]
    reason = FINISH_REASONS.get(str(choice.finish_reason))
    if choice.finish_reason == "content_filter":
        raise RowError("refused", "the endpoint's content filter")
    if reason is None:
        raise _NoSample(f"the endpoint ended with {choice.finish_reason}")
    text = choice.text if hasattr(choice, "text") else choice.message.content
    values = _logprobs(choice)
    tokens = answer.usage.completion_tokens if answer.usage else len(values)
    return Sample(text or "", tokens, reason, sum(values) / len(values) if values else None)


def _logprobs(choice: Any) -> list[float]:
    """The log-probabilities of the tokens, [] where the endpoint gives none; chat and completions differ."""
    found = choice.logprobs
    if found is None:
        return []
    if getattr(found, "content", None):
        return [token.logprob for token in found.content]
    return [value for value in getattr(found, "token_logprobs", None) or [] if value is not None]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
