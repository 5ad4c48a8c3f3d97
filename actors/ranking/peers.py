"""The processes of one training run, and what they tell each other. One process alone asks nobody."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class Peers:
    """This process's rank among `size` processes, which all call the same methods in the same order."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        return self._reduced(values, torch.distributed.ReduceOp.SUM)

    def largest(self, value: int) -> int:
        """The largest value of all processes."""
        return int(self._reduced(torch.tensor(value), torch.distributed.ReduceOp.MAX).item())

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        values = [value] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        if self.size == 1:
            return values
        moved = values.clone().to(self.device)  # NCCL knows no CPU
        torch.distributed.all_reduce(moved, how)
        return moved.to(values.device)
