"""Tokenised examples -> micro-batches, in an order that depends only on the seed.

Shuffled passes over the examples form one endless stream, and the steps of a run cut it into batches. So every example
is seen equally often, and step k is the same whether or not the run was interrupted. Within a step, sequences are
sorted by length before they are cut into micro-batches: this saves padding and leaves the gradient unchanged.
"""

import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader

MADE_AHEAD: Final = 3  # micro-batches


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


class Rows:
    """The rows of a table by their indices, as Python objects. Keeps the table's chunks as they are.

    `Table.take` would copy a table of several chunks whole, and could not do so for more than 2**31 tokens.
    """

    def __init__(self, table: pa.Table) -> None:
        self._chunks = table.to_batches()
        self._ends = np.cumsum([chunk.num_rows for chunk in self._chunks])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for index, number in zip(indices, np.searchsorted(self._ends, indices, side="right"), strict=True):
            chunk = self._chunks[number]
            rows += chunk.slice(index - (self._ends[number] - chunk.num_rows), 1).to_pylist()
        return rows


Collate = Callable[[Sequence[dict[str, Any]], Sequence[int], int], dict[str, Tensor]]


def loader(rows: Rows, sampler: Any, collate: Collate, pad_id: int) -> "DataLoader[Any]":
    """The micro-batches of rows of EXAMPLE_SCHEMA."""

    def fetch(indices: list[int]) -> dict[str, Tensor]:
        return collate(rows[indices], indices, pad_id)

    return DataLoader(_Indices(len(rows)), batch_sampler=sampler, collate_fn=fetch)


class _Indices(torch.utils.data.Dataset[int]):
    """A dataset whose items are indices. Rows become Python objects only when their batch is made."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> int:
        return index


class Ahead(Iterator[Any]):
    """The items of an iterator, up to `most` of them made by a thread before they are asked for.

    Order and items are those of the iterator. An exception in it is raised where its item would have come. The thread
    ends after the last item, after an exception, at `close`, and when this object is gone.
    """

    def __init__(self, items: Iterator[Any], most: int = MADE_AHEAD) -> None:
        self._made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(most)
        self._is_over = threading.Event()
        # The thread must not hold this object, or nothing would ever end it.
        state = items, self._made, self._room, self._is_over
        self._thread = threading.Thread(target=_make, args=state, name="batches", daemon=True)
        self._thread.start()
        weakref.finalize(self, _end, self._room, self._is_over)

    def __next__(self) -> Any:
        if self._is_over.is_set():
            raise StopIteration
        item, error = self._made.get()
        if error is not None:
            self.close()
            raise error
        self._room.release()
        return item

    def close(self) -> None:
        """End the thread, and wait until it has ended."""
        _end(self._room, self._is_over)
        self._thread.join()


def _make(
    items: Iterator[Any], made: "queue.SimpleQueue[Any]", room: threading.Semaphore, is_over: threading.Event
) -> None:
    try:
        while True:
            room.acquire()
            if is_over.is_set():
                return
            made.put((next(items), None))
    except BaseException as error:  # noqa: BLE001  whatever it is, StopIteration too, `__next__` raises it
        made.put((None, error))


def _end(room: threading.Semaphore, is_over: threading.Event) -> None:
    is_over.set()
    room.release()
