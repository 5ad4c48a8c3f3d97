"""The keys and values of rows of different lengths in one cache, and an attention over them that copies nothing.

transformers' own cache copies everything for each new token, and rows cannot leave or join it.

Shape legend: B batch, L columns in the cache, T new ones, H query heads, G key/value heads, D head size.
"""

from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicLayer

ROOM: Final = 64  # free columns; when they are full, the cache is copied


class _GrowingLayer(DynamicLayer):
    """Keys and values [B, G, L + room, D]. A new column is written in place; DynamicLayer would copy all columns."""

    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self.size = 0  # L

    def get_seq_length(self) -> int:
        return self.size

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        new = slice(self.size, self.size + key_states.shape[2])
        if self.size == 0:
            self.keys, self.values = key_states, value_states
        else:
            if new.stop > self.keys.shape[2]:
                self.keys, self.values = (_stacked([each[:, :, : self.size]]) for each in (self.keys, self.values))
            self.keys[:, :, new] = key_states
            self.values[:, :, new] = value_states
        self.size, self.is_initialized = new.stop, True
        return self.keys[:, :, : new.stop], self.values[:, :, : new.stop]


class RowCache(Cache):
    """The keys and values of rows of different lengths, aligned at the right."""

    layers: list[Any]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_GrowingLayer)

    def keep(self, holes: list[int], movers: list[int], count: int, columns: int) -> None:
        """Move the rows at `movers` to `holes`, then keep the first `count` rows and the last `columns` columns."""
        for layer in self.layers:
            for name in ("keys", "values"):
                tensor = getattr(layer, name)
                tensor[holes] = tensor[movers]
                kept = tensor[:count, :, layer.size - columns :]
                is_sparse = 2 * kept.nbytes < tensor.untyped_storage().nbytes()  # a view keeps the memory of all
                setattr(layer, name, kept.clone() if is_sparse else kept)
            layer.size = columns

    @classmethod
    def joined(cls, parts: Sequence[tuple["RowCache", slice | list[int]]], columns: int) -> "RowCache":
        """One cache of some rows of several caches, with the last `columns` columns in use."""
        cache = cls()
        for layers in zip(*(part.layers for part, _ in parts), strict=True):
            layer = _GrowingLayer()
            for name in ("keys", "values"):
                tensors = [getattr(each, name)[:, :, max(0, each.size - columns) : each.size] for each in layers]
                setattr(layer, name, _stacked([tensor[at] for tensor, (_, at) in zip(tensors, parts, strict=True)]))
            layer.size, layer.is_initialized = columns, True
            cache.layers.append(layer)
        return cache


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """The rows of several [B, G, L, D], aligned at the right, with zeros before them and ROOM after them."""
    size = max(part.shape[2] for part in parts)
    stacked = parts[0].new_zeros(sum(map(len, parts)), parts[0].shape[1], size + ROOM, parts[0].shape[3])
    for rows, part in zip(stacked.split([len(part) for part in parts]), parts, strict=True):
        rows[:, :, size - part.shape[2] : size] = part
    return stacked


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention on a CPU, query [B, H, T, D], key and value [B, G, L, D] -> [B, T, H, D] (transformers' interface).

    transformers' own function copies the whole cache for every query head of a group at every step.
    """
    assert unused.get("position_bias") is None, "models with position biases have another cache"
    causal = mask is None and query.shape[2] > 1
    output = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None
