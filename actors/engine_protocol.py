"""What the sampler asks of an engine: transformers in this process, an endpoint, a table in a test."""

from dataclasses import dataclass
from typing import Protocol

from algorithms.sampling import Prompt, Sample


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to draw. The same prompt and seed give the same sample."""

    prompt: Prompt
    seed: int


class Engine(Protocol):
    """Draws samples. Many calls wait at once; the engine batches them as it likes.

    `concurrency` is how many requests keep it busy, `forward_seconds` what it has computed or waited so far.
    """

    concurrency: int
    forward_seconds: float

    async def sample(self, request: SampleRequest) -> Sample:
        """Draw one sample. Raises RowError when this prompt cannot be answered, whoever asks again."""
        ...
