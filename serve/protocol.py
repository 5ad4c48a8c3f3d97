"""What the ingress asks of students and rankers, whoever answers: replicas of Ray Serve, or an engine in a test."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from actors.engines.protocol import Piece, SampleRequest
from algorithms.ranking.solutions import Solution


class ServeError(Exception):
    """Why there is no sample, and the status that a client gets if there is no other one.

    ServeError
    ├── Refused           400: the student can never answer this prompt
    ├── Busy              429: all places are taken; try again
    ├── SampleFailed      502: this sample could not be drawn
    ├── Unavailable       503: no student answers; try again
    └── DeadlineExceeded  504: the deadline came before any sample was drawn
    """


class Refused(ServeError):
    """The student can never answer this prompt: it is too long, or the endpoint rejects it."""


class Busy(ServeError):
    """All places of the student are taken, and its queue is full."""


class Unavailable(ServeError):
    """The student is down, or cannot answer any more."""


class SampleFailed(ServeError):
    """One sample could not be drawn; others may be."""


class DeadlineExceeded(ServeError):
    """The deadline came before any sample was drawn."""


@dataclass(frozen=True, slots=True)
class Score:
    """A ranker's calibrated probability that a solution is right, or the `problem` why there is none."""

    value: float | None
    problem: str | None = None


class Student(Protocol):
    """Draws samples for the ingress."""

    def draw(self, request: SampleRequest, prompt_key: str, *, with_text: bool) -> AsyncGenerator[Piece]:
        """The pieces of one sample; the last one carries the sample. Closing the iterator frees its place.

        Requests with the same `prompt_key` go to the replica that holds the prompt's keys and values. Without
        `with_text`, pieces tell the number of tokens alone. Raises ServeError.
        """
        ...


class Ranker(Protocol):
    """Scores solutions for the ingress."""

    async def score(self, solution: Solution, kind: str) -> Score:
        """The score of a solution to a question whose answer is of a kind of `algorithms.answers.kinds`."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of it: `kind`, `answers` and lineage, and the `problem` why it cannot score, None if it can."""
        ...
