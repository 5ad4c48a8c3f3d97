"""What the refiner asks of a scorer. A table of numbers can be one, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from algorithms.refinement import ScoreRequest
from algorithms.row_errors import RowError


@dataclass(frozen=True, slots=True)
class Scored:
    """Perplexities in the order of the variants; tokens computed now, and by separate forwards."""

    perplexities: list[float]
    tokens_forwarded: int
    tokens_naive: int


class ScoringTask(Protocol):
    """A request made ready: it knows what it costs."""

    @property
    def num_new_tokens(self) -> int: ...  # noqa: D102


class Scorer(Protocol):
    """What the refiner needs of a scorer; a table of numbers can be one."""

    token_budget: int

    def prepare(self, request: ScoreRequest, after: Any | None) -> ScoringTask:
        """Make a request ready; `after` is the task of the same chain's request before, if any.

        Raises RowError when the row cannot be scored.
        """
        ...

    def score(self, tasks: Sequence[Any]) -> list[Scored | RowError]:
        """Score several tasks together; the answer of each, or why it has none."""
        ...

    def num_tokens(self, text: str) -> int:
        """Length of a text in this scorer's tokens."""
        ...
