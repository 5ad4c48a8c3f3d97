"""What every ranker offers, to batch jobs and to servers."""

from collections.abc import Sequence
from typing import Protocol

from algorithms.ranking.solutions import Solution


class Ranker(Protocol):
    """Scores solutions. Each score depends on its own solution alone, so samples may come in any grouping."""

    def score(self, solutions: Sequence[Solution]) -> list[float]:
        """For each solution a calibrated probability in (0, 1) that it is right."""
        ...
