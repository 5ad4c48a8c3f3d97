"""The input of every loss: a flat micro-batch, and the log-probabilities of its scored tokens.

Logits are the largest tensors of a training step (V is 49,152 for SmolLM2). So the scored positions are selected
first, in the dtype of the logits, and converted to float32 in chunks of rows. float64 stays float64.

Shape legend: N sequences, T tokens, V vocabulary, S scored tokens (S = mask.sum()).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

LossOutput: TypeAlias = tuple[Tensor, dict[str, Tensor]]  # a scalar with its graph, and detached scalars
NumItems: TypeAlias = int | float | Tensor | None

ROWS_AT_A_TIME = 512  # 100 MB in float32 for V = 49,152


@dataclass(frozen=True, slots=True, eq=False)
class LossBatch:
    """N sequences and their training targets."""

    targets: Tensor  # [N, T] int64: the token that logits[:, t] predict (already shifted); arbitrary where unscored
    mask: Tensor  # [N, T] bool: True for scored tokens, False for the prompt and padding
    is_right: Tensor  # [N] bool: right (positive, chosen) or wrong (negative, rejected)
    group: Tensor  # [N] int64: the id of the sequence's example (pair or question); any integers

    def __post_init__(self) -> None:
        if self.targets.dim() != 2 or self.mask.shape != self.targets.shape:
            raise ValueError(
                f"targets {list(self.targets.shape)} and mask {list(self.mask.shape)} must both be [sequences, tokens]"
            )
        for name, tensor in (("is_right", self.is_right), ("group", self.group)):
            if tensor.shape != self.targets.shape[:1]:
                raise ValueError(f"{name} {list(tensor.shape)} must hold one value for each of the "
                                 f"{len(self.targets)} sequences")  # fmt: skip
        for name, tensor in (("mask", self.mask), ("is_right", self.is_right)):
            if tensor.dtype != torch.bool:
                raise ValueError(f"{name} must be torch.bool, got {tensor.dtype}")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype for sums: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def in_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Chunks of rows, aligned across the tensors. Empty tensors give one empty chunk."""
    return zip(*(torch.split(each, ROWS_AT_A_TIME) for each in tensors), strict=True)


def check_ids(ids: Tensor, num_vocab: int, name: str) -> None:
    """Raise ValueError for token ids outside the vocabulary. On a GPU, the lookup would crash without a clear error."""
    outside = ids[(ids < 0) | (ids >= num_vocab)]
    if len(outside) > 0:
        raise ValueError(
            f"{name} holds {int(outside[0])} at a scored position, outside the vocabulary of {num_vocab}; "
            "mask the position or correct the token"
        )


def select_scored(logits: Tensor, batch: LossBatch) -> tuple[Tensor, Tensor]:
    """Logits [S, V] in their own dtype and targets [S] at the scored positions, in row-major order."""
    if logits.dim() != 3 or logits.shape[:2] != batch.targets.shape:
        raise ValueError(
            f"logits {list(logits.shape)} must be [sequences, tokens, vocabulary] "
            f"with the sequences and tokens of targets {list(batch.targets.shape)}"
        )
    targets = batch.targets[batch.mask]
    check_ids(targets, logits.shape[-1], "targets")
    return logits[batch.mask], targets


def target_logprobs(rows: Tensor, targets: Tensor) -> Tensor:
    """log p(target) [S] under the logits `rows` [S, V]."""
    dtype = compute_dtype(rows.dtype)
    logprobs = [
        some.log_softmax(-1, dtype=dtype).gather(-1, ids[:, None])[:, 0] for some, ids in in_chunks(rows, targets)
    ]
    return torch.cat(logprobs)


def at_scored(values: Tensor, mask: Tensor) -> Tensor:
    """Values per sequence [N] or per token [N, T], at the scored tokens [S]."""
    return (values[:, None].expand(mask.shape) if values.dim() == 1 else values)[mask]


def sequence_sums(values: Tensor, mask: Tensor) -> Tensor:
    """The sum of `values` [S] over the scored tokens of each sequence, [N]."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values).sum(1)


def divisor(num_items: NumItems, own_count: int) -> float:
    """The divisor of the sums: `num_items`, or else the batch's own count; 1 if both are 0."""
    number = float(own_count if num_items is None else num_items)
    if number == 0 and own_count == 0:
        return 1.0
    if not 0 < number < math.inf:
        raise ValueError(
            f"num_items={number} with {own_count} items in this batch is invalid; pass the count of the whole "
            "optimizer step, or None for the batch's own count"
        )
    return number


def log1mexp(logprobs: Tensor) -> Tensor:
    """log(1 - p) from log p (Maechler 2012), with p clamped below 1 to keep the value and the gradient finite.

    The bound is 1 - eps of the dtype, the closest to 1 that a log-softmax resolves. Above it, the value is
    log(eps), -15.9 in float32, and the gradient is 0.
    """
    clamped = logprobs.clamp(max=-torch.finfo(logprobs.dtype).eps)
    return torch.where(clamped > -math.log(2), (-clamped.expm1()).log(), (-clamped.exp()).log1p())
