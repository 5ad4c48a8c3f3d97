"""Tokenised examples -> micro-batches, in an order that depends only on the seed.

Shuffled passes over the examples form one endless stream, and the steps of a run cut it into batches. So every example
is seen equally often, and step k is the same whether or not the run was interrupted. Within a step, sequences are
sorted by length before they are cut into micro-batches: this saves padding and leaves the gradient unchanged.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader


class StepSampler:
    """The micro-batches of a rank, as lists of indices into its examples.

    The `batch_size` examples of a step are cut into `num_micro` micro-batches of similar length. Raises ValueError if
    there are no examples.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, num_micro: int, num_steps: int, seed: int) -> None:
        if not len(lengths):
            raise ValueError("there are no examples to train on")
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._num_micro = num_micro
        self._num_steps = num_steps
        self._seed = seed

    def __len__(self) -> int:
        return self._num_steps * self._num_micro

    def __iter__(self) -> Iterator[list[int]]:
        stream = self._stream()
        for _ in range(self._num_steps):
            step = np.fromiter((next(stream) for _ in range(self._batch_size)), int, self._batch_size)
            step = step[np.argsort(self._lengths[step], kind="stable")]
            for part in np.array_split(step, self._num_micro):
                yield part.tolist()

    def _stream(self) -> Iterator[int]:
        number = 0
        while True:
            yield from np.random.default_rng((self._seed, number)).permutation(len(self._lengths)).tolist()
            number += 1


Collate = Callable[[Sequence[dict[str, Any]], Sequence[int], int], dict[str, Tensor]]


def loader(examples: pa.Table, sampler: Any, collate: Collate, pad_id: int) -> "DataLoader[Any]":
    """The micro-batches of a table of EXAMPLE_SCHEMA."""

    def fetch(indices: list[int]) -> dict[str, Tensor]:
        return collate(examples.take(indices).to_pylist(), indices, pad_id)

    return DataLoader(_Indices(examples.num_rows), batch_sampler=sampler, collate_fn=fetch)


class _Indices(torch.utils.data.Dataset[int]):
    """A dataset whose items are indices. Rows become Python objects only when their batch is made."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> int:
        return index
