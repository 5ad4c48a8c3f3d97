"""What a refinement asks for. Whoever drives it sends the reply."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from algorithms.perplexity import Span
from algorithms.refinement.outcomes import Refinement


@dataclass(frozen=True, slots=True)
class Variant:
    """A text and its scored character span (None: every token except the first)."""

    text: str
    span: Span | None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A request for the perplexity of each variant, in order. The first variant is the current chain."""

    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """A request to merge two adjacent steps into one. The reply is a MergeReply."""

    question: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class MergeReply:
    """The merged step, or the reason why there is none: a short name, such as `endpoint_down`."""

    text: str = ""
    problem: str | None = None


Request: TypeAlias = ScoreRequest | MergeRequest
Reply: TypeAlias = Sequence[float] | MergeReply | None
Refining: TypeAlias = Generator[Request, Reply, Refinement]


def request_scores(request: ScoreRequest) -> Generator[Request, Reply, Sequence[float]]:
    """The perplexities of the variants."""
    reply = yield request
    assert not isinstance(reply, MergeReply), "the reply to a ScoreRequest must be perplexities"
    assert reply is not None, "the reply to a ScoreRequest must be perplexities"
    assert len(reply) == len(request.variants), "the reply needs one perplexity per variant"
    return reply


def request_merge(request: MergeRequest) -> Generator[Request, Reply, MergeReply]:
    """What the merger makes of two steps."""
    reply = yield request
    assert isinstance(reply, MergeReply), "the reply to a MergeRequest must be a MergeReply"
    return reply
