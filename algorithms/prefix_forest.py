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


def build_forest(sequences: Sequence[Sequence[int]]) -> PrefixForest:
    """The forest of token sequences, each [T_i]. Equal sequences share all nodes; empty sequences have none."""
    arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    paths: list[IntArray] = [np.empty(0, dtype=np.int64)] * len(arrays)
    tokens: list[IntArray] = []
    parents: list[IntArray] = []
    size = 0
    previous, previous_path = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    # In lexicographic order, the common prefix with the predecessor is the longest with any earlier sequence.
    # Appending the rest of each sequence therefore walks the trie depth first.
    for index in sorted(range(len(arrays)), key=lambda i: tuple(sequences[i])):
        array = arrays[index]
        shared = _common_prefix_length(previous, array)
        fresh = np.arange(size, size + len(array) - shared, dtype=np.int64)
        path = np.concatenate([previous_path[:shared], fresh])
        tokens.append(array[shared:])
        parents.append(np.concatenate([[-1], path])[shared : len(array)])
        size += len(fresh)
        paths[index] = path
        previous, previous_path = array, path
    if size == 0:
        empty = np.empty(0, dtype=np.int64)
        return PrefixForest(empty, empty, empty, empty, tuple(paths))
    all_parents = np.concatenate(parents).astype(np.int64)
    depths = np.zeros(size, dtype=np.int64)
    for path in paths:
        depths[path] = np.arange(len(path))
    return PrefixForest(np.concatenate(tokens), all_parents, depths, _subtree_ends(depths), tuple(paths))


def match_nodes(new: PrefixForest, old: PrefixForest) -> IntArray:
    """For each node of `new`, the node of `old` with the same prefix, or -1. Matched nodes can be reused."""
    children = {
        (parent, token): node
        for node, (parent, token) in enumerate(zip(old.parents.tolist(), old.tokens.tolist(), strict=True))
    }
    matched: list[int] = []
    for parent, token in zip(new.parents.tolist(), new.tokens.tolist(), strict=True):
        old_parent = matched[parent] if parent >= 0 else -1
        # A child of an unmatched node has no match either. In `children`, -1 stands for a root.
        known = parent < 0 or old_parent >= 0
        matched.append(children.get((old_parent, token), -1) if known else -1)
    return np.asarray(matched, dtype=np.int64)


def _common_prefix_length(a: IntArray, b: IntArray) -> int:
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def _subtree_ends(depths: IntArray) -> IntArray:
    """For each node in depth-first order, the first later node at the same depth or above, or the end."""
    ends = np.full(len(depths), len(depths), dtype=np.int64)
    open_nodes: list[int] = []
    for node, depth in enumerate(depths.tolist()):
        while open_nodes and depths[open_nodes[-1]] >= depth:
            ends[open_nodes.pop()] = node
        open_nodes.append(node)
    return ends
