"""What every loss reads: a flat micro-batch, and the log-probabilities of its scored tokens.

Logits are the largest tensors of a training step (V is 49,152 for SmolLM2), so scored positions are selected first,
in the type of the logits, and become float32 some rows at a time. float64 stays float64.

Shape legend: N sequences, T tokens, V vocabulary, S scored tokens (S = mask.sum()).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

LossOutput: TypeAlias = tuple[Tensor, dict[str, Tensor]]  # a scalar with its graph, detached scalars
NumItems: TypeAlias = int | float | Tensor | None

ROWS_AT_A_TIME = 512  # 100 MB in float32 where V is 49,152


@dataclass(frozen=True, slots=True, eq=False)
class LossBatch:
    """N sequences with what is to be learned from each."""

    targets: Tensor  # [N, T] int64: the token that logits[:, t] predicts, already shifted; any value where unscored
    mask: Tensor  # [N, T] bool: scored tokens, prompt and pads are False
    is_right: Tensor  # [N] bool: right (positive, chosen) or wrong (negative, rejected)
    group: Tensor  # [N] int64: the example (pair, question) a sequence belongs to; any ids

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
                raise ValueError(f"{name} is {tensor.dtype}, it must be torch.bool: it selects")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type sums are made in: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def in_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors some rows at a time, all the same rows; once, with no rows, where they have none."""
    return zip(*(torch.split(each, ROWS_AT_A_TIME) for each in tensors), strict=True)


def check_ids(ids: Tensor, num_vocab: int, name: str) -> None:
    """Refuse token ids outside the vocabulary: on a GPU the look-up would kill the process without a cause."""
    outside = ids[(ids < 0) | (ids >= num_vocab)]
    if len(outside) > 0:
        raise ValueError(
            f"{name} holds {int(outside[0])} at a scored position, outside the vocabulary of {num_vocab}; "
            "unscore the position or correct the token"
        )


def select_scored(logits: Tensor, batch: LossBatch) -> tuple[Tensor, Tensor]:
    """Logits [S, V] in their own type, and targets [S], of the scored positions in row-major order."""
    if logits.dim() != 3 or logits.shape[:2] != batch.targets.shape:
        raise ValueError(
            f"logits {list(logits.shape)} must be [sequences, tokens, vocabulary] "
            f"with the sequences and tokens of targets {list(batch.targets.shape)}"
        )
    targets = batch.targets[batch.mask]
    check_ids(targets, logits.shape[-1], "targets")
    return logits[batch.mask], targets


def target_logprobs(rows: Tensor, targets: Tensor) -> Tensor:
    """log p(target) [S] under logits `rows` [S, V]."""
    dtype = compute_dtype(rows.dtype)
    logprobs = [
        some.log_softmax(-1, dtype=dtype).gather(-1, ids[:, None])[:, 0] for some, ids in in_chunks(rows, targets)
    ]
    return torch.cat(logprobs)


def at_scored(values: Tensor, mask: Tensor) -> Tensor:
    """Values of sequences [N], or of tokens [N, T], at the scored tokens [S]."""
    return (values[:, None].expand(mask.shape) if values.dim() == 1 else values)[mask]


def sequence_sums(values: Tensor, mask: Tensor) -> Tensor:
    """Sums [N] over the scored tokens of each sequence, from their `values` [S]."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values).sum(1)


def divisor(num_items: NumItems, own_count: int) -> float:
    """What sums are divided by: `num_items`, or the batch's own count; 1 where there is nothing at all."""
    number = float(own_count if num_items is None else num_items)
    if number == 0 and own_count == 0:
        return 1.0
    if not 0 < number < math.inf:
        raise ValueError(
            f"num_items={number} with {own_count} items in this batch; give the count of the whole optimizer step, "
            "or None for the batch's own"
        )
    return number


def log1mexp(logprobs: Tensor) -> Tensor:
    """log(1 - p) from log p (Maechler 2012), with p held below 1 so that value and gradient stay finite.

    The bound is 1 - eps of the type: the nearest to 1 that a log-softmax can tell from 1. Beyond it the value is
    log(eps), -15.9 in float32, and the gradient 0.
    """
    held = logprobs.clamp(max=-torch.finfo(logprobs.dtype).eps)
    return torch.where(held > -math.log(2), (-held.expm1()).log(), (-held.exp()).log1p())
