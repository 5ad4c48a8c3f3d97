"""Perplexity over part of a text, as in SPIRIT (arXiv 2502.13260).

    PPL(x; w_1..w_N) = exp(-(1/N) sum_i log p(w_i | x, w_<i))

The scope selects the tokens w. All other tokens only condition. The scopes are options of ours: `suffix` (the tokens
after an edited step), `completion` (reasoning and answer), `answer` (the step that states it), and `full` (the question
too).
"""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Scope: TypeAlias = Literal["suffix", "completion", "answer", "full"]
Span: TypeAlias = tuple[int, int]


def perplexity(losses: NDArray[np.floating] | Sequence[float]) -> float:
    """The exponential of the mean token loss (in nats). Infinite if there are no losses; NaN stays NaN."""
    values = np.asarray(losses, dtype=np.float64)
    if values.size == 0:
        return math.inf
    mean = float(values.mean())
    return math.inf if mean >= 700.0 else math.exp(mean)  # exp overflows a double at 709.8


def scored_tokens(offsets: Sequence[Span] | NDArray[np.int64], span: Span | None) -> NDArray[np.bool_]:
    """The mask of the tokens that a span scores, a boolean array [T].

    `offsets` holds the (start, stop) character range of each token; special tokens have an empty range. A token
    is scored if it contains any character of the span. `None` scores every token, including special tokens, as
    `model(labels=input_ids)` does. The first token is never scored, because nothing predicts it.
    """
    if span is None:
        scored = np.ones(len(offsets), dtype=np.bool_)
    else:
        edges = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        starts, stops = edges[:, 0], edges[:, 1]
        scored = (stops > span[0]) & (starts < span[1]) & (stops > starts)
    scored[:1] = False
    return scored
