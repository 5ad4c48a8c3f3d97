"""A question with its gold answer and, where there are any, the answers that were sampled for it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GivenSample:
    """One sampled solution as a corpus holds it. `text` is None where it is none; `fault` then says why.

    The other fields are what the corpus knows beside it: who wrote it, whether it calls it correct, and what
    `algorithms.sampling.Sample` keeps.
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
    """A question, the gold answer ("" where none is known), samples. `last_number` allows the last resort of
    extraction: answers of this kind of corpus are numbers.
    """

    question: str
    answer: str
    samples: tuple[GivenSample, ...] = ()
    last_number: bool = False
