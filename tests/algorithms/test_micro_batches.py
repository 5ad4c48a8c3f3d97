"""Micro-batches: what is scored, and what a teacher has added."""

import pytest
import torch

from algorithms.micro_batches import collate
from tests.fixtures.rows import solution


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


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_betas_of_tokens_may_be_beside_a_solution_with_one_scored_token(order):
    taught = [solution([1, 2], 1, beta=[0.25]), solution([5, 6, 7, 8], 2, beta=[0.5, 0.75])]
    batch = collate([{"solutions": [taught[number]]} for number in order], [0, 1], pad_id=0)
    expected = [[0.25, 0.0, 0.0], [0.0, 0.5, 0.75]]
    assert batch["beta"].tolist() == [expected[number] for number in order]
