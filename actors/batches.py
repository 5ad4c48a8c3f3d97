"""Tokenised examples -> micro-batches, in an order that depends on nothing but the seed.

The steps of a run cut one endless stream of shuffled passes over the examples into batches: every example is seen
exactly as often as every other, and step k is the same whether or not the run was ever stopped. Within a step,
sequences are sorted by length before they are cut into micro-batches: little padding, the same gradient.

Shape legend: N sequences, T tokens, K kept tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader


class StepSampler:
    """The micro-batches of a rank, as lists of indices into its examples.

    `batch_size` examples a step are cut into `num_micro` micro-batches of neighbours in length. Raises ValueError
    where there is nothing to draw from.
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


def loader(examples: pa.Table, sampler: Any, pad_id: int) -> "DataLoader[Any]":
    """The micro-batches of a table of EXAMPLE_SCHEMA."""

    def fetch(indices: list[int]) -> dict[str, Tensor]:
        return collate(examples.take(indices).to_pylist(), indices, pad_id)

    return DataLoader(_Indices(examples.num_rows), batch_sampler=sampler, collate_fn=fetch)


class _Indices(torch.utils.data.Dataset[int]):
    """A dataset whose items are their own numbers: rows become Python only when their batch is made."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> int:
        return index


def collate(examples: Sequence[dict[str, Any]], indices: Sequence[int], pad_id: int) -> dict[str, Tensor]:
    """The sequences of some examples as one micro-batch, padded on the right.

    input_ids, attention_mask, targets, mask (scored) [N, T]; is_right [N]; group, index (of the example) [N]; where
    they were precomputed beta [N] or [N, T], topk_ids and topk_logprobs [N, T, K]. targets[:, t] follows
    input_ids[:, t], so the last token of a sequence is no input.
    """
    solutions = [(number, each) for number, example in enumerate(examples) for each in example["solutions"]]
    shape = len(solutions), max(len(solution["tokens"]) for _, solution in solutions) - 1
    batch = {
        "input_ids": torch.full(shape, pad_id),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "targets": torch.zeros(shape, dtype=torch.int64),
        "mask": torch.zeros(shape, dtype=torch.bool),
        "is_right": torch.tensor([solution["is_right"] for _, solution in solutions]),
        "group": torch.tensor([number for number, _ in solutions]),
        "index": torch.tensor([indices[number] for number, _ in solutions]),
    }
    batch.update(_empty_teacher(solutions[0][1], shape))
    for row, (_, solution) in enumerate(solutions):
        tokens = torch.tensor(solution["tokens"])
        scored = slice(max(solution["num_prompt_tokens"], 1) - 1, len(tokens) - 1)
        batch["input_ids"][row, : len(tokens) - 1] = tokens[:-1]
        batch["attention_mask"][row, : len(tokens) - 1] = 1
        batch["targets"][row, : len(tokens) - 1] = tokens[1:]
        batch["mask"][row, scored] = True
        if "beta" in batch:
            beta = torch.tensor(solution["beta"])
            batch["beta"][row, scored if batch["beta"].dim() == 2 else ...] = beta if len(beta) > 1 else beta[0]
        if "topk_ids" in batch:
            for name in ("topk_ids", "topk_logprobs"):
                values = torch.tensor(solution[name], dtype=batch[name].dtype)
                batch[name][row, scored] = values.view(scored.stop - scored.start, -1)
    return batch


def _empty_teacher(solution: dict[str, Any], shape: tuple[int, int]) -> dict[str, Tensor]:
    """Room for what was precomputed of a teacher, with the sizes that one solution shows."""
    room: dict[str, Tensor] = {}
    num_scored = len(solution["tokens"]) - max(solution["num_prompt_tokens"], 1)
    if solution["beta"] is not None:
        room["beta"] = torch.zeros(shape if len(solution["beta"]) > 1 else shape[:1])
    if solution["topk_ids"] is not None:
        kept = len(solution["topk_ids"]) // num_scored
        room["topk_ids"] = torch.zeros(*shape, kept, dtype=torch.int64)
        room["topk_logprobs"] = torch.zeros(*shape, kept)
    return room
