"""Tokenised examples -> one micro-batch of tensors, as the losses read it.

Shape legend: N sequences, T tokens, K kept tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def collate(examples: Sequence[dict[str, Any]], indices: Sequence[int], pad_id: int) -> dict[str, Tensor]:
    """The sequences of some examples as one micro-batch, padded on the right.

    Keys: input_ids, attention_mask, targets, mask (scored tokens) [N, T]; is_right [N]; group, index (of the example)
    [N]; if they were precomputed, beta [N] or [N, T], topk_ids and topk_logprobs [N, T, K]. targets[:, t] follows
    input_ids[:, t], so the last token of a sequence is not an input.
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
    batch.update(_teacher_zeros([solution for _, solution in solutions], shape))
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


def _teacher_zeros(solutions: Sequence[dict[str, Any]], shape: tuple[int, int]) -> dict[str, Tensor]:
    """Zeros for the teacher's precomputed values.

    A single beta is of a whole sequence, or of its only scored token. Several values in any solution tell which.
    """
    first = solutions[0]
    room: dict[str, Tensor] = {}
    if first["beta"] is not None:
        is_by_token = any(len(solution["beta"]) > 1 for solution in solutions)
        room["beta"] = torch.zeros(shape if is_by_token else shape[:1])
    if first["topk_ids"] is not None:
        kept = len(first["topk_ids"]) // (len(first["tokens"]) - max(first["num_prompt_tokens"], 1))
        room["topk_ids"] = torch.zeros(*shape, kept, dtype=torch.int64)
        room["topk_logprobs"] = torch.zeros(*shape, kept)
    return room
