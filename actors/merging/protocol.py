"""What the Refiner asks of a merger: a language model, or a table in a test."""

from typing import Protocol

from algorithms.refinement.requests import MergeReply, MergeRequest


class Merger(Protocol):
    """Merges steps. Many calls wait at once; `concurrency` of them keep it busy."""

    concurrency: int

    async def merge(self, request: MergeRequest) -> MergeReply:
        """The merged step, or the name of the problem. Raises SluiceError only if the run must end."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...
