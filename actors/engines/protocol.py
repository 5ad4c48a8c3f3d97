"""What the Sampler and the Student ask of an engine: transformers, vLLM, an endpoint, or a table in a test."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from algorithms.sampling import Prompt, Sample, SamplingParams


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to draw, with its own sampling parameters. `token_logprobs`: the sample shall hold its tokens too."""

    prompt: Prompt
    params: SamplingParams
    token_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a sample's text. The last piece carries the whole sample, whose text is that of all pieces.

    `num_tokens` counts the tokens of the sample so far; those of an endpoint are counted by its chunks until the end.
    """

    text: str
    num_tokens: int
    sample: Sample | None = None


class Engine(Protocol):
    """Draws samples. Many calls wait at once, with any mixture of parameters, and the engine batches them.

    `concurrency` is the number of requests that keep the engine busy, `forward_seconds` the time it has computed, or
    waited for an endpoint. Cancelling a call frees its place within one step, and its memory at the latest when half of
    the memory is free. Close a stream that is not read to its end (`contextlib.aclosing`).
    """

    concurrency: int

    @property
    def forward_seconds(self) -> float: ...  # noqa: D102

    async def sample(self, request: SampleRequest) -> Sample:
        """Draw one sample.

        Raises RowError if this prompt cannot be answered, however often it is asked, and EngineDied if the engine
        cannot answer any prompt any more.
        """
        ...

    def stream(self, request: SampleRequest) -> AsyncGenerator[Piece]:
        """Draw one sample, piece by piece. Raises as `sample` does."""
        ...

    def close(self) -> None:
        """Free models and processes. No call may be in flight."""
        ...
