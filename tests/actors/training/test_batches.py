"""The order in which examples come, and micro-batches of a table."""

import itertools
from collections import Counter

import pyarrow as pa
import pytest

from actors.training.batches import StepSampler, loader
from actors.training.examples import EXAMPLE_SCHEMA
from algorithms.micro_batches import collate
from tests.fixtures.rows import solution


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
    rows = [{"id": str(n), "num_tokens": 3, "solutions": [solution([n, 1, 2], 1)]} for n in range(4)]
    table = pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)
    batches = list(loader(table, [[2, 0], [3]], collate, pad_id=0))
    assert [batch["input_ids"][:, 0].tolist() for batch in batches] == [[2, 0], [3]]
    assert [batch["index"].tolist() for batch in batches] == [[2, 0], [3]]
