"""What the Refiner asks of a scorer. A table of numbers can be one, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from algorithms.refinement.requests import ScoreRequest
from algorithms.row_errors import RowError


@dataclass(frozen=True, slots=True)
class Scored:
    """Perplexities in the order of the variants; tokens computed now, and by separate forwards.

    `num_scored` is the number of scored tokens of each variant, where the scorer tells it.
    """

    perplexities: list[float]
    tokens_forwarded: int
    tokens_naive: int
    num_scored: list[int] = field(default_factory=list)


class ScoringTask(Protocol):
    """A prepared request, which knows its cost."""

    @property
    def num_new_tokens(self) -> int: ...  # noqa: D102


class Scorer(Protocol):
    """Gives perplexities: `prepare` runs ahead on the event loop, and the Refiner calls `score` in a thread.

    `token_budget` bounds the new tokens of a pass; `num_preparing` is the number of requests that `prepare` works on
    at once.
    """

    token_budget: int
    num_preparing: int

    async def prepare(self, request: ScoreRequest, after: Any | None) -> ScoringTask:
        """Prepare a request. `after` is the task of the same chain's previous request, if any.

        Raises RowError if the row cannot be scored.
        """
        ...

    def score(self, tasks: Sequence[Any]) -> list[Scored | RowError]:
        """Score several tasks together. Each gets its result, or the reason why it has none."""
        ...

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in this scorer's tokens."""
        ...
