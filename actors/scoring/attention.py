"""Attention over several prefix forests in one forward pass.

A query sees a key of its own forest exactly if `key <= query < subtree_end[key]`, and no other forest.

Shape legend: T new tokens of a pass, K keys, H query heads, G key/value heads, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from actors.scoring.forest_task import ForestTask
from algorithms.prefix_forest import IntArray


@dataclass
class PassPart:
    """A task's share of one pass: its new nodes, at `[start, stop)` of the pass, and the kept nodes that they see."""

    task: ForestTask
    nodes: IntArray  # [T]
    start: int
    stop: int
    slots: Tensor  # of the kept ancestors; the keys are theirs, then those of the new nodes [K]
    mask: Tensor  # [T, K] added to the attention scores: 0 where a query may see a key, else -inf
    query_depths: Tensor  # [T]
    key_depths: Tensor  # [K]
    keys: list[Tensor] = field(default_factory=list)  # of the new nodes, per layer [1, G, T, D]
    values: list[Tensor] = field(default_factory=list)

    def mask_within(self, sliding_window: int | None) -> Tensor:
        """The mask without keys at a distance of `sliding_window` positions or more."""
        if sliding_window is None:
            return self.mask
        distance = self.query_depths[:, None] - self.key_depths
        return self.mask.masked_fill(distance >= sliding_window, float("-inf"))


def mask_arrays(task: ForestTask, nodes: IntArray) -> tuple[IntArray, ...]:
    """What the mask of some new nodes is made of, in the order in which the scorer takes them."""
    forest, kept = task.forest, task.state.nodes
    # Only kept nodes that are ancestors of new ones matter. `nodes` ascend, so an ancestor shows as a gap between
    # the places of the node and of its subtree's end.
    slots = np.flatnonzero(np.searchsorted(nodes, kept) < np.searchsorted(nodes, forest.subtree_end[kept]))
    keys = np.concatenate([kept[slots], nodes])
    return slots, nodes, keys, forest.subtree_end[keys], forest.depths[nodes], forest.depths[keys]


def forest_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    forest_parts: Sequence[PassPart] = (),
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of one pass: each part sees only its own ancestors (transformers' interface).

    query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D]. Projections run over the whole pass. Only this
    function knows that the pass holds several forests, so a CUDA kernel with block masks (FlexAttention) belongs here.
    """
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    repeats = query.shape[1] // key.shape[1]
    outputs = []
    for part in forest_parts:
        new = slice(part.start, part.stop)
        keys, values = key[:, :, new], value[:, :, new]
        part.keys.append(keys)
        part.values.append(values)
        if len(part.slots):
            state = part.task.state
            keys = torch.cat([state.keys[layer].index_select(2, part.slots), keys], dim=2)
            values = torch.cat([state.values[layer].index_select(2, part.slots), values], dim=2)
        outputs.append(
            functional.scaled_dot_product_attention(
                query[:, :, new],
                keys.repeat_interleave(repeats, dim=1),
                values.repeat_interleave(repeats, dim=1),
                attn_mask=part.mask_within(sliding_window),
                scale=scaling,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None
