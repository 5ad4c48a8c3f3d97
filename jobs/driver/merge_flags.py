"""The flags of the verbs that merge steps, and the merger that they name."""

import os
from typing import Any, Final, Self

from pydantic import Field, model_validator

from actors.engines.build import OpenAIFactory
from actors.errors import UserError
from actors.merging.build import MERGERS, EndpointMergerFactory, LocalMergerFactory, MakeMerger, MergerKind
from actors.models.checks import CheckedModel
from jobs.driver.command import JobConfig, listed

OF_ENDPOINTS: Final = ("merge_url", "merge_model", "merge_concurrency", "merge_patience")
MERGE_SECONDS: Final = 120.0  # for one merge
LOCAL_MERGES: Final = 64  # rows that wait for the scorer's own model


class MergeFlags(JobConfig):
    """What writes merged steps."""

    merge: MergerKind = Field(
        default="none", description=listed("What writes the merge of a step into a neighbour.", MERGERS)
    )
    merge_url: str | None = None
    """URL of the endpoint that merges, such as http://localhost:8000/v1."""
    merge_model: str | None = None
    """Name of the endpoint's model."""
    merge_concurrency: int = Field(default=32, ge=1)
    """Merges that each actor asks the endpoint for at once."""
    merge_patience: float = Field(default=60, gt=0)
    """Seconds for which the endpoint may fail to answer before the run goes on without merges."""

    @model_validator(mode="after")
    def _check_merging(self) -> Self:
        given = [name for name in OF_ENDPOINTS if getattr(self, name) != MergeFlags.model_fields[name].default]
        if self.merge != "openai" and given:
            raise ValueError(f"--{given[0].replace('_', '-')} needs --merge openai")
        if self.merge == "openai" and not (self.merge_url and self.merge_model):
            raise ValueError("--merge openai needs --merge-url and --merge-model")
        if self.merge_url is not None and not self.merge_url.startswith(("http://", "https://")):
            raise ValueError(f"--merge-url {self.merge_url} must begin with http:// or https://")
        return self

    @property
    def num_merging(self) -> int:
        """Rows of an actor that may wait for merges at once."""
        return {"none": 0, "local": LOCAL_MERGES, "openai": 2 * self.merge_concurrency}[self.merge]

    def merger(
        self, checked: CheckedModel | None, device: str, dtype: str, num_threads: int | None
    ) -> tuple[MakeMerger | None, dict[str, Any]]:
        """A factory of the merger, and what identifies it. `checked` is the model that scores."""
        if self.merge == "openai":
            assert self.merge_url is not None, "checked"
            assert self.merge_model is not None, "checked"
            endpoint = OpenAIFactory(
                self.merge_url,
                self.merge_model,
                os.environ.get("OPENAI_API_KEY", "none"),
                self.merge_concurrency,
                self.merge_patience,
                request_seconds=max(MERGE_SECONDS, self.merge_patience),
            )
            return EndpointMergerFactory(endpoint), {"url": self.merge_url, "model": self.merge_model}
        if self.merge == "local":
            if checked is None:
                raise UserError("--merge local needs a model that scores")
            return LocalMergerFactory(checked.source, device, dtype, num_threads), {"model": checked.identity["model"]}
        return None, {}
