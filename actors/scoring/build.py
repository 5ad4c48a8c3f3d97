"""A picklable factory of the scorer, which the Refiner calls where the model is to live."""

from dataclasses import dataclass

from actors.models.source import ModelSource
from actors.scoring.protocol import Scorer


def default_token_budget(device: str) -> int:
    """New tokens of a pass: what keeps a GPU busy, or fits a CPU's caches."""
    return 16384 if device == "cuda" else 1024


@dataclass(frozen=True)
class ForestScorerFactory:
    """Builds the forest scorer."""

    model: ModelSource
    device: str
    dtype: str
    token_budget: int | None
    num_threads: int | None

    def __call__(self) -> Scorer:
        """Load the model."""
        from actors.scoring.forest_scorer import ForestScorer

        return ForestScorer(
            self.model,
            device=self.device,
            dtype=self.dtype,
            token_budget=self.token_budget,
            num_threads=self.num_threads,
        )
