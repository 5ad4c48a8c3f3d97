"""Flatten token sequences that share prefixes, so that a model computes each shared token once.

Leave-one-out over S steps produces S + 1 nearly equal sequences. As a trie in depth-first order, they become
four integer arrays of length T (the number of distinct prefixes):

    tokens[t]   parents[t] (-1 at a root)   depths[t] (the position id)   subtree_end[t]

Token q attends to token k exactly when `k <= q < subtree_end[k]`. This condition is the whole attention mask. The
loss of a token comes from the logits of its parent, so siblings share logits. Each sequence is tokenized as a whole,
so the forest is exact even if tokens cross step boundaries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PrefixForest:
    """A flattened trie. `paths[i]` holds the node of each token of sequence i, root first."""

    tokens: IntArray
    parents: IntArray
    depths: IntArray
    subtree_end: IntArray
    paths: tuple[IntArray, ...]

    def __len__(self) -> int:
        return len(self.tokens)


def build_forest(sequences: Sequence[Sequence[int] | IntArray]) -> PrefixForest:
    """The forest of token sequences, each [T_i]. Equal sequences share all nodes; empty sequences have none.

    All work is done on whole arrays: the forest of a long chain has a hundred thousand nodes.
    """
    arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    paths: list[IntArray] = [np.empty(0, dtype=np.int64)] * len(arrays)
    most = sum(map(len, arrays))
    tokens, parents, depths, ends = (np.empty(most, dtype=np.int64) for _ in range(4))
    size = 0
    previous, previous_path = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    # In lexicographic order, the common prefix with the predecessor is the longest with any earlier sequence.
    # Appending the rest of each sequence therefore walks the trie depth first.
    for index in sorted(range(len(arrays)), key=lambda i: _sort_key(arrays[i])):
        array = arrays[index]
        shared = _common_prefix_length(previous, array)
        stop = size + len(array) - shared
        fresh = np.arange(size, stop)
        path = np.concatenate([previous_path[:shared], fresh])
        tokens[size:stop] = array[shared:]
        parents[size:stop] = fresh - 1
        if shared < len(array):
            parents[size] = path[shared - 1] if shared else -1
        depths[size:stop] = np.arange(shared, len(array))
        ends[previous_path[shared:]] = size  # what this sequence does not share with its predecessor is complete
        paths[index] = path
        previous, previous_path, size = array, path, stop
    ends[previous_path] = size
    # Copies: views would keep the whole buffers.
    return PrefixForest(
        tokens[:size].copy(), parents[:size].copy(), depths[:size].copy(), ends[:size].copy(), tuple(paths)
    )


def match_nodes(new: PrefixForest, old: PrefixForest) -> IntArray:
    """For each node of `new`, the node of `old` with the same prefix, or -1. Matched nodes can be reused."""
    matched = np.full(len(new), -1, dtype=np.int64)
    forests = ((False, old), (True, new))
    sequences = [(forest.tokens[path], path, is_new) for is_new, forest in forests for path in forest.paths]
    sequences.sort(key=lambda sequence: _sort_key(sequence[0]))
    # In lexicographic order, the old sequence that shares most with a new one is the next before or after it.
    for walk in (sequences, reversed(sequences)):
        nearest, nearest_path = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        for tokens, path, is_new in walk:
            if is_new:
                shared = _common_prefix_length(nearest, tokens)
                matched[path[:shared]] = nearest_path[:shared]
            else:
                nearest, nearest_path = tokens, path
    return matched


def _sort_key(tokens: IntArray) -> bytes:
    """Bytes that compare as the tokens do. Comparing tuples of integers takes longer than building the forest."""
    return tokens.astype(">u4").tobytes()


def _common_prefix_length(a: IntArray, b: IntArray) -> int:
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    first = int(different.argmax()) if length else 0
    return first if length and different[first] else length
