"""Picklable factories of mergers, which the Refiner calls with its scorer where the model is to live."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from actors.engines.build import OpenAIFactory
from actors.merging.merger import EngineMerger
from actors.merging.protocol import Merger
from actors.models.source import ModelSource
from actors.runs.folder import RunFolder
from actors.runs.replies import Replies
from actors.scoring.protocol import Scorer

MergerKind: TypeAlias = Literal["none", "local", "openai"]
MakeMerger: TypeAlias = Callable[[Scorer, RunFolder], Merger]
MERGERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "none": "no step is merged",
        "local": "the model that scores",
        "openai": "any OpenAI-compatible endpoint; the key in OPENAI_API_KEY",
    }
)


@dataclass(frozen=True)
class LocalMergerFactory:
    """Builds a merger on the weights that the scorer has loaded already."""

    model: ModelSource
    device: str
    dtype: str
    num_threads: int | None

    def __call__(self, scorer: Scorer, run: RunFolder) -> Merger:
        """Share the scorer's weights."""
        from actors.engines.transformers import TransformersEngine
        from actors.scoring.forest_scorer import ForestScorer

        assert isinstance(scorer, ForestScorer), "only a forest scorer has a model to share"
        engine = TransformersEngine(
            self.model,
            loaded=scorer.shared_model(),
            device=self.device,
            dtype=self.dtype,
            num_threads=self.num_threads,
        )
        # A text to continue suits a base model, and a small chat model too: it answers a message with an essay.
        return EngineMerger(engine, is_chat=False)


@dataclass(frozen=True)
class EndpointMergerFactory:
    """Builds a merger that asks an endpoint. Its replies are kept in the run's folder."""

    endpoint: OpenAIFactory

    def __call__(self, scorer: Scorer, run: RunFolder) -> Merger:
        """Open the client."""
        name = f"{self.endpoint.url} {self.endpoint.model}"
        return EngineMerger(self.endpoint(), is_chat=True, replies=Replies(run), name=name)
