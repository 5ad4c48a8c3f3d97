"""What a request needs before a model sees it: tokens, scored spans and the forest. Imports neither torch nor Ray.

It runs where the scorer's thread does not wait for it (`preparers`). For a chain of sixty steps, the tokenizer reads
more than 200,000 tokens a round, which takes it about a quarter of a second of one core.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.perplexity import scored_tokens
from algorithms.prefix_forest import PrefixForest, build_forest
from algorithms.refinement.requests import ScoreRequest
from algorithms.row_errors import RowError


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request as arrays: what a preparing process sends back."""

    forest: PrefixForest  # of the distinct texts
    text_of: tuple[int, ...]  # for each variant, the place of its text in `forest.paths`
    scored: tuple[NDArray[np.bool_], ...]  # for each variant, which tokens count [T_i]
    tokens_naive: int


class Preparation:
    """Prepares requests with a model's tokenizer: `tokenizer` is transformers' `backend_tokenizer`.

    transformers' own call gives the same tokens, in Python lists whose making takes longer than tokenising.
    """

    def __init__(self, tokenizer: Any, window: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._window = window

    def __call__(self, request: ScoreRequest) -> PreparedRequest:
        """Tokenize each distinct text as a whole and fold the sequences into a forest. Raises RowError."""
        texts = list(dict.fromkeys(variant.text for variant in request.variants))
        encodings = self._encode(texts, add_special_tokens=True)
        longest = max(map(len, encodings))
        if longest > self._window:
            raise RowError("too_long", f"{longest} tokens, the model's window is {self._window}")
        row_of = {text: row for row, text in enumerate(texts)}
        rows = tuple(row_of[variant.text] for variant in request.variants)
        offsets = [_integers(itertools.chain.from_iterable(each.offsets), 2 * len(each)) for each in encodings]
        scored = tuple(
            scored_tokens(offsets[row].reshape(-1, 2), variant.span)
            for row, variant in zip(rows, request.variants, strict=True)
        )
        if not scored[0].any():
            raise RowError("nothing_to_score")
        forest = build_forest([_integers(each.ids, len(each)) for each in encodings])
        # A plain loop would forward each distinct text once: one forward gives any number of spans.
        return PreparedRequest(forest, rows, scored, tokens_naive=sum(map(len, encodings)))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in tokens, without special ones."""
        return [len(each) for each in self._encode(texts, add_special_tokens=False)]

    def _encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[Any]:
        try:
            return self._tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust, which exports no such class
                raise
            # It is no Exception, and would end more than the row that causes it.
            raise RuntimeError(f"the tokenizer failed: {error}") from None


def _integers(values: Any, count: int) -> NDArray[np.int64]:
    return np.fromiter(values, dtype=np.int64, count=count)
