"""Which pairs of samples an epoch trains on, and which of them share a batch.

A pair is a right and a wrong sample of one problem. Everything here depends only on the data, the seed and the epoch: a
resumed run draws the same pairs, and so does another number of workers.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algorithms.ranking.metrics import Bools, Ints

PAIRS_PER_POOL: Final = 4096  # sorted by length together: enough that padding is small, few enough to stay mixed


def draw_pairs(right: Bools, problems: Ints, per_problem: int | None, seed: int, epoch: int) -> NDArray[np.int64]:
    """The pairs of an epoch [P, 2]: indices of the right and of the wrong sample.

    Up to `per_problem` different pairs of each problem, drawn anew for each epoch; None for all of them.
    """
    drawn = [np.empty((0, 2), np.int64)]
    order = np.argsort(problems, kind="stable")
    edges = np.flatnonzero(np.diff(problems[order])) + 1
    for mine in np.split(order, edges):
        positive, negative = mine[right[mine]], mine[~right[mine]]
        size = len(positive) * len(negative)
        if size:
            chance = np.random.default_rng((seed, epoch, int(problems[mine[0]])))
            number = size if per_problem is None else min(per_problem, size)
            chosen = np.arange(size) if number == size else chance.choice(size, number, replace=False)
            drawn.append(np.stack([positive[chosen // len(negative)], negative[chosen % len(negative)]], axis=1))
    return np.concatenate(drawn)


def cut_batches(lengths: Ints, tokens_per_batch: int) -> list[Ints]:
    """Items by increasing length, in batches of at most `tokens_per_batch` with padding, or of one longer item."""
    order = np.argsort(lengths, kind="stable")
    batches, begin = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - begin) * lengths[order[end]] > tokens_per_batch:
            batches.append(order[begin:end])
            begin = end
    return batches


def pair_batches(pairs: Ints, lengths: Ints, tokens_per_batch: int, chance: np.random.Generator) -> list[Any]:
    """Shuffled batches of pairs of similar length, each [P, 2]. `lengths` are those of the samples."""
    batches = []
    shuffled = chance.permutation(pairs)
    for first in range(0, len(shuffled), PAIRS_PER_POOL):
        pool = shuffled[first : first + PAIRS_PER_POOL]
        longest = lengths[pool].max(axis=1)
        batches += [pool[batch] for batch in cut_batches(2 * longest, tokens_per_batch)]
    return [batches[number] for number in chance.permutation(len(batches))]
