"""Token losses from hidden states: the head's logits in float32, a chunk at a time.

Logits of a whole pass would not fit: 16,384 tokens times a vocabulary of 150,000 are 10 GB. Rounded to bfloat16, a
logit of 20 is off by up to 0.06, which is as much as removing a step often changes a perplexity. Only the result of the
product has to stay in float32; the factors are what the model holds.

Shape legend: R rows (hidden states that predict a token), L losses, M hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from algorithms.prefix_forest import IntArray, PrefixForest

LOGIT_BYTES: Final = {"cpu": 1 << 26, "cuda": 1 << 28}  # of a chunk of logits; on a GPU, small products waste time
WEIGHT_BYTES: Final = 1 << 26  # of a chunk of the head's weight that is copied to float32


@dataclass(frozen=True, slots=True)
class WantedLosses:
    """Losses of some nodes of one forest: loss i is that of `nodes[i]`, after row `rows[i]`. `rows` ascend."""

    nodes: IntArray  # [L]
    tokens: IntArray  # [L]
    rows: IntArray  # [L]
    slots: IntArray  # of each row in the kept state; children of one node share a row [R]


def want_losses(forest: PrefixForest, kept: IntArray, nodes: IntArray) -> WantedLosses:
    """What the losses of `nodes` need of a state that keeps the nodes `kept`, their parents among them."""
    slot_of = np.full(len(forest), -1)
    slot_of[kept] = np.arange(len(kept))
    parents, row_of = np.unique(forest.parents[nodes], return_inverse=True)
    order = np.argsort(row_of, kind="stable")
    return WantedLosses(nodes[order], forest.tokens[nodes[order]], row_of[order], slot_of[parents])


def join_rows(wanted: Sequence[WantedLosses]) -> IntArray:
    """The rows of several forests, one forest after the other [L of all]."""
    starts = np.cumsum([0, *(len(each.slots) for each in wanted)])
    return np.concatenate([each.rows + start for each, start in zip(wanted, starts[:-1], strict=True)])


class LossHead:
    """The model's output layer, which gives losses and keeps no logits.

    On CUDA the product of two half-precision factors is written in float32 as it is accumulated. A CPU has no such
    kernel, so there pieces of the weight are copied to float32, at most WEIGHT_BYTES at once. An output layer that is
    not a plain `Linear` (such as a quantized one) computes its own logits.
    """

    def __init__(self, layer: Any, vocab_size: int) -> None:
        self._layer = layer
        self._vocab_size = vocab_size

    def losses(self, hidden: Tensor, host_rows: IntArray, rows: Tensor, tokens: Tensor) -> Tensor:
        """Losses [L] in float32 of `tokens` [L] after `rows` [L] of `hidden` [R, M], all on the device.

        `rows` ascend, and `host_rows` are the same in the host's memory: the host never waits for the device.
        """
        losses = torch.empty(len(host_rows), dtype=torch.float32, device=hidden.device)
        rows_per_chunk = max(1, LOGIT_BYTES[hidden.device.type] // (4 * self._vocab_size))
        for first in range(0, len(hidden), rows_per_chunk):
            chunk = hidden[first : first + rows_per_chunk]
            start, stop = np.searchsorted(host_rows, [first, first + len(chunk)])
            losses[start:stop] = self._chunk_losses(chunk, rows[start:stop] - first, tokens[start:stop])
        return losses

    def _chunk_losses(self, hidden: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        normalizer = torch.full((len(hidden),), float("-inf"), device=hidden.device)
        of_token = torch.zeros(len(tokens), device=hidden.device)
        for low, logits in self._logits(hidden):
            normalizer = torch.logaddexp(normalizer, torch.logsumexp(logits, dim=-1))
            place = tokens - low
            last = logits.shape[1] - 1
            is_here = (place >= 0) & (place <= last)
            of_token = torch.where(is_here, logits[rows, place.clamp(0, last)], of_token)
        return normalizer[rows] - of_token

    def _logits(self, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Logits in float32 for pieces of the vocabulary: the first token of each piece, and [R, piece]."""
        layer = self._layer
        if type(layer) is not torch.nn.Linear:
            yield 0, layer(hidden).float()
            return
        weight, bias = layer.weight, layer.bias
        if weight.dtype == torch.float32:
            yield 0, functional.linear(hidden, weight, bias)
        elif weight.device.type == "cuda":
            logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
            yield 0, logits if bias is None else logits + bias.float()
        else:
            step = max(1, WEIGHT_BYTES // (4 * weight.shape[1]))
            for low in range(0, len(weight), step):
                piece = slice(low, low + step)
                own_bias = None if bias is None else bias[piece].float()
                yield low, functional.linear(hidden.float(), weight[piece].float(), own_bias)
