"""What clients get: OpenAI's objects, with the block `adaptive` in an answer that was voted on."""

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from algorithms.sampling import Sample
from algorithms.voting.online import margin
from serve.solver import Progress, SampleState, Solved

DONE: Final = "data: [DONE]\n\n"
DIGITS: Final = 4


class _Reply(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Vote(_Reply):
    """One answer and what speaks for it."""

    answer: str
    samples: int
    """Samples that state it."""
    weight: float
    """Its total in the vote: the number of samples, or the sum of the ranker's scores."""
    share: float
    """Of all weight."""
    confidence: float | None
    """The calibrated probability that it is right; null without a policy that has one."""


class SampleCounts(_Reply):
    """What became of the samples."""

    used: int
    """Counted in the vote."""
    cancelled: int
    """Stopped when the vote was decided, or finished too late."""
    failed: int


class AdaptiveReport(_Reply):
    """How the vote went."""

    answer: str | None
    """The answer that won; null if no sample states one. The choice then is the best-ranked sample."""
    votes: list[Vote]
    samples: SampleCounts
    margin: float
    """The winner's share minus the runner-up's."""
    confidence: float | None
    """The winner's calibrated probability."""
    stop_reason: str
    """decided, max_samples, max_tokens, deadline or failed."""
    vote: str
    rule: str
    tokens: int
    """Tokens of all samples, also of cancelled ones."""
    tokens_saved: int
    """Estimated against drawing max_samples."""
    ranker: str
    """used, none, or why its scores were not."""
    sample: int
    """The index of the sample that the choice shows."""
    seconds: float


class TokenLogprob(_Reply):
    """A token of the reply and its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[Any]


class ChatLogprobs(_Reply):
    """The tokens of a choice."""

    content: list[TokenLogprob] | None
    refusal: None = None


class TextLogprobs(_Reply):
    """The tokens of a choice."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: None = None
    text_offset: list[int]


class AssistantMessage(_Reply):
    """The student's answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(_Reply):
    """One answer."""

    index: int
    message: AssistantMessage
    finish_reason: str
    logprobs: ChatLogprobs | None = None


class TextChoice(_Reply):
    """One continuation."""

    index: int
    text: str
    finish_reason: str
    logprobs: TextLogprobs | None = None


class Usage(_Reply):
    """Tokens. Completion tokens count every sample, also cancelled ones."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(_Reply):
    """The reply of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    adaptive: AdaptiveReport | None = None


class Completion(_Reply):
    """The reply of /v1/completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    adaptive: AdaptiveReport | None = None


class Answered(_Reply):
    """What a request came to, before it is put in OpenAI's shape."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    samples: list[Sample]
    num_tokens: int
    report: AdaptiveReport | None = None

    @property
    def usage(self) -> Usage:
        """The tokens. The prompt counts once, as with OpenAI."""
        prompt = self.samples[0].num_prompt_tokens or 0
        return Usage(prompt_tokens=prompt, completion_tokens=self.num_tokens, total_tokens=prompt + self.num_tokens)


class Shape:
    """Builds the objects of one endpoint for one request."""

    def __init__(self, model: str, *, is_chat: bool) -> None:
        self._is_chat = is_chat
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, answered: Answered) -> ChatCompletion | Completion:
        """The reply to a request that is not streamed."""
        rest: dict[str, Any] = {**self._head, "usage": answered.usage, "adaptive": answered.report}
        if self._is_chat:
            choices = [
                ChatChoice(
                    index=index,
                    message=AssistantMessage(content=sample.text),
                    finish_reason=sample.finish_reason,
                    logprobs=_chat_logprobs(sample),
                )
                for index, sample in enumerate(answered.samples)
            ]
            return ChatCompletion(choices=choices, **rest)
        texts = [
            TextChoice(
                index=index, text=sample.text, finish_reason=sample.finish_reason, logprobs=_text_logprobs(sample)
            )
            for index, sample in enumerate(answered.samples)
        ]
        return Completion(choices=texts, **rest)

    def opening(self, index: int) -> str:
        """The first chunk of a choice, which in a chat names the role."""
        return self._chunk(index, {"role": "assistant", "content": ""}, "", None) if self._is_chat else ""

    def piece(self, index: int, text: str) -> str:
        """A chunk with text."""
        return self._chunk(index, {"content": text}, text, None)

    def closing(self, index: int, sample: Sample, report: AdaptiveReport | None) -> str:
        """The last chunk of a choice: why it ended, its tokens if asked for, and how it was voted on."""
        logprobs = _chat_logprobs(sample) if self._is_chat else _text_logprobs(sample)
        more = {"adaptive": report.model_dump()} if report is not None else {}
        return self._chunk(
            index, {}, "", sample.finish_reason, None if logprobs is None else logprobs.model_dump(), **more
        )

    def usage(self, answered: Answered) -> str:
        """The chunk that tells the usage."""
        return event({**self._head, "object": self._object, "choices": [], "usage": answered.usage.model_dump()})

    @property
    def _object(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _chunk(
        self, index: int, delta: dict[str, Any], text: str, finish_reason: str | None, logprobs: Any = None, **more: Any
    ) -> str:
        body = {"delta": delta} if self._is_chat else {"text": text}
        choice = {"index": index, **body, "finish_reason": finish_reason, "logprobs": logprobs}
        return event({**self._head, "object": self._object, "choices": [choice], **more})


def report_of(solved: Solved, max_samples: int, has_ranker: bool) -> AdaptiveReport:
    """How a vote went, for its client."""
    states = [each.state for each in solved.samples]
    votes = votes_of(solved.standings)
    tokens = solved.num_tokens + solved.num_tokens_cancelled
    whole = solved.num_tokens / max(solved.num_counted, 1) * max_samples
    ranker = "none" if not has_ranker else "used"
    return AdaptiveReport(
        answer=solved.answer,
        votes=votes,
        samples=SampleCounts(
            used=solved.num_counted,
            cancelled=sum(state in ("cancelled", "finished", "running") for state in states),
            failed=states.count("failed"),
        ),
        margin=round(margin(list(solved.standings)), DIGITS),
        confidence=votes[0].confidence if votes else None,
        stop_reason=solved.stop_reason.value,
        vote=solved.policy.vote,
        rule=solved.policy.rule_name,
        tokens=tokens,
        tokens_saved=max(round(whole) - tokens, 0),
        ranker=solved.ranker_problem or ranker,
        sample=solved.sample_index,
        seconds=round(solved.seconds, 3),
    )


def votes_of(standings: Sequence[Any]) -> list[Vote]:
    """The answers as clients see them, the leader first."""
    return [
        Vote(
            answer=each.answer,
            samples=len(each.indices),
            weight=round(each.weight, DIGITS),
            share=round(each.share, DIGITS),
            confidence=None if each.probability is None else round(each.probability, DIGITS),
        )
        for each in standings
    ]


def progress_comment(progress: Progress) -> str:
    """The state of a vote as an SSE comment, which OpenAI's clients skip."""
    state = {
        "samples": [_sample_state(each) for each in progress.samples],
        "votes": [each.model_dump() for each in votes_of(progress.standings)],
    }
    return f": {json.dumps(state)}\n\n"


def pieces_of(text: str) -> Iterable[str]:
    """A finished text in pieces of a line, for clients that show text as it comes."""
    return text.splitlines(keepends=True)


def _sample_state(state: SampleState) -> dict[str, Any]:
    score = None if state.score is None else round(state.score, DIGITS)
    return {
        "index": state.index,
        "state": state.state,
        "tokens": state.num_tokens,
        "answer": state.answer,
        "score": score,
    }


def _chat_logprobs(sample: Sample) -> ChatLogprobs | None:
    if sample.tokens is None:
        return None
    return ChatLogprobs(
        content=[
            TokenLogprob(token=text, logprob=logprob, bytes=_bytes(text), top_logprobs=[])
            for text, logprob in sample.tokens
        ]
    )


def _bytes(token: str) -> list[int] | None:
    """The bytes of a token, None if it is a part of a character."""
    return None if "\ufffd" in token else list(token.encode("utf-8", "replace"))


def _text_logprobs(sample: Sample) -> TextLogprobs | None:
    if sample.tokens is None:
        return None
    texts = [text for text, _ in sample.tokens]
    offsets = list(accumulate(map(len, texts[:-1]), initial=0)) if texts else []
    return TextLogprobs(tokens=texts, token_logprobs=[value for _, value in sample.tokens], text_offset=offsets)


def event(body: dict[str, Any]) -> str:
    """A server-sent event: a chunk, or an error in the middle of a stream."""
    return f"data: {json.dumps(body)}\n\n"
