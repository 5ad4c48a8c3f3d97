"""Perplexity over part of a text (SPIRIT, arXiv 2502.13260, papers.md A1).

    PPL(x; w_1..w_N) = exp(-(1/N) sum_i log p(w_i | x, w_<i))

The scope says which tokens are w; all others only condition.
"""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Scope: TypeAlias = Literal["completion", "answer", "full", "suffix"]
Span: TypeAlias = tuple[int, int]


def perplexity(losses: NDArray[np.floating] | Sequence[float]) -> float:
    """Exponential of the mean of token losses (nats). Infinite where there is nothing to score; NaN stays NaN."""
    values = np.asarray(losses, dtype=np.float64)
    if values.size == 0:
        return math.inf
    mean = float(values.mean())
    return math.inf if mean >= 700.0 else math.exp(mean)  # exp overflows a double at 709.8


def scored_tokens(offsets: Sequence[Span], span: Span | None) -> NDArray[np.bool_]:
    """Which tokens of a text the span scores, as a boolean array [T].

    `offsets` are the (start, stop) characters of each token; special tokens have an empty range. A token
    counts when it holds any character of the span. `None` scores every token, special ones too, as
    `model(labels=input_ids)` does. The first token is never scored: nothing predicts it.
    """
    if span is None:
        scored = np.ones(len(offsets), dtype=np.bool_)
    else:
        edges = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        starts, stops = edges[:, 0], edges[:, 1]
        scored = (stops > span[0]) & (starts < span[1]) & (stops > starts)
    scored[:1] = False
    return scored
