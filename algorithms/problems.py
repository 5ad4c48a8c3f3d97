"""A question with its gold answer and, if there are any, its sampled answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

# What a corpus may know of a sample besides its text: the fields of `algorithms.sampling.Sample`.
SAMPLE_FACTS: Final[Mapping[str, type]] = MappingProxyType(
    {"num_tokens": int, "finish_reason": str, "mean_logprob": float}
)


@dataclass(frozen=True, slots=True)
class GivenSample:
    """One sampled solution in a corpus. If `text` is None, `fault` says why it cannot be read.

    `origin` is the author of the sample, `given_correct` the corpus's own label. The other fields are those of
    `algorithms.sampling.Sample`.
    """

    text: str | None
    fault: str | None = None
    origin: str | None = None
    given_correct: bool | None = None
    num_tokens: int | None = None
    finish_reason: str | None = None
    mean_logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, its gold answer ("" if unknown) and its samples.

    `last_number` allows extraction to fall back on the last number of a solution, for corpora whose answers are
    numbers.
    """

    question: str
    answer: str
    samples: tuple[GivenSample, ...] = ()
    last_number: bool = False
