"""Micro-batches: what is scored, in which order examples come, and what a teacher has added."""

import itertools
from collections import Counter

import pytest
import torch

from actors.training.batches import StepSampler, collate, loader
from actors.training.examples import EXAMPLE_SCHEMA


def solution(tokens, num_prompt, is_right=True, **taught):
    empty = dict.fromkeys(("beta", "topk_ids", "topk_logprobs"))
    return {"tokens": tokens, "num_prompt_tokens": num_prompt, "is_right": is_right} | empty | taught


def test_a_batch_predicts_each_next_token_and_scores_the_solutions():
    examples = [
        {"solutions": [solution([5, 6, 7, 8], 2), solution([5, 6, 9], 2, is_right=False)]},
        {"solutions": [solution([1, 2], 1)]},
    ]
    batch = collate(examples, [4, 9], pad_id=0)
    expected = {
        "input_ids": [[5, 6, 7], [5, 6, 0], [1, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0], [1, 0, 0]],
        "targets": [[6, 7, 8], [6, 9, 0], [2, 0, 0]],
        # 7 and 8 follow the prompt 5 6; so does 9; of a prompt of one token all that follows is scored
        "mask": [[False, True, True], [False, True, False], [True, False, False]],
        "is_right": [True, False, True],
        "group": [0, 0, 1],
        "index": [4, 4, 9],
    }
    assert {name: tensor.tolist() for name, tensor in batch.items()} == expected


def test_a_prompt_without_tokens_leaves_the_first_token_unscored():
    batch = collate([{"solutions": [solution([3, 4, 5], 0)]}], [0], pad_id=0)
    assert batch["mask"].tolist() == [[True, True]]


def test_what_a_teacher_added_lies_at_the_scored_tokens():
    by_sequence = [
        {"solutions": [solution([5, 6, 7, 8], 2, beta=[0.5])]},
        {"solutions": [solution([1, 2], 1, beta=[0.25])]},
    ]
    assert collate(by_sequence, [0, 1], pad_id=0)["beta"].tolist() == [0.5, 0.25]
    taught = {"beta": [0.5, 0.75], "topk_ids": [1, 2, 3, 4], "topk_logprobs": [-1.0, -2.0, -3.0, -4.0]}
    batch = collate([{"solutions": [solution([5, 6, 7, 8], 2, **taught)]}], [0], pad_id=0)
    assert batch["beta"].tolist() == [[0.0, 0.5, 0.75]]
    assert batch["topk_ids"].tolist() == [[[0, 0], [1, 2], [3, 4]]]
    assert batch["topk_logprobs"].tolist() == [[[0.0, 0.0], [-1.0, -2.0], [-3.0, -4.0]]]
    assert batch["topk_ids"].dtype == torch.int64


def test_every_example_comes_as_often_as_every_other_and_each_step_has_its_own_lengths_together():
    lengths = [7, 1, 5, 3, 6, 2, 4]
    sampler = StepSampler(lengths, batch_size=4, num_micro=2, num_steps=7, seed=3)
    micro = list(sampler)
    assert len(micro) == len(sampler) == 14
    assert set(Counter(itertools.chain.from_iterable(micro)).values()) == {4}  # 28 draws of 7 examples
    for step in range(7):
        first, second = micro[2 * step : 2 * step + 2]
        assert max(lengths[n] for n in first) <= min(lengths[n] for n in second)
    assert list(sampler) == micro
    assert list(StepSampler(lengths, 4, 2, 7, seed=4)) != micro


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ValueError, match="no examples"):
        StepSampler([], 4, 2, 7, seed=0)


def test_a_loader_makes_batches_of_a_table():
    import pyarrow as pa

    rows = [{"id": str(n), "num_tokens": 3, "solutions": [solution([n, 1, 2], 1)]} for n in range(4)]
    table = pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)
    batches = list(loader(table, [[2, 0], [3]], pad_id=0))
    assert [batch["input_ids"][:, 0].tolist() for batch in batches] == [[2, 0], [3]]
    assert [batch["index"].tolist() for batch in batches] == [[2, 0], [3]]
