"""The order in which examples come, and micro-batches of a table."""

import gc
import itertools
import threading
import time
from collections import Counter

import pyarrow as pa
import pytest

from actors.training.batches import Ahead, Rows, StepSampler, loader
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
    batches = list(loader(Rows(table), [[2, 0], [3]], collate, pad_id=0))
    assert [batch["input_ids"][:, 0].tolist() for batch in batches] == [[2, 0], [3]]
    assert [batch["index"].tolist() for batch in batches] == [[2, 0], [3]]


def test_rows_are_those_of_a_table_whatever_its_chunks():
    rows = [{"id": str(n), "num_tokens": 3, "solutions": [solution([n, 1, 2], 1)]} for n in range(9)]
    table = pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)
    chunked = pa.concat_tables([table.slice(0, 4), table.slice(4, 0), table.slice(4, 1), table.slice(5)])
    for indices in ([0], [8, 3, 4, 5, 3], []):
        assert Rows(chunked)[indices] == table.take(pa.array(indices, pa.int64())).to_pylist()
    assert (len(Rows(chunked)), len(Rows(EXAMPLE_SCHEMA.empty_table()))) == (9, 0)


# --- batches made ahead


def batch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def no_threads_soon():
    """Whether the threads of `Ahead` have ended within five seconds."""
    deadline = time.monotonic() + 5
    while batch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not batch_threads()


def test_items_made_ahead_are_the_same_in_the_same_order_and_only_a_few():
    made = []
    ahead = Ahead((made.append(n) or n for n in range(100)), most=3)
    assert [next(ahead) for _ in range(10)] == list(range(10))
    time.sleep(0.2)
    assert len(made) == 13
    assert list(ahead) == list(range(10, 100))
    assert list(ahead) == []
    assert no_threads_soon()


def test_an_exception_comes_where_its_item_would_have_come():
    def items():
        yield 1
        yield 2
        raise KeyError("third")

    ahead = Ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(ahead)
    assert list(ahead) == []
    assert no_threads_soon()


@pytest.mark.parametrize("end", ["close", "forget"])
def test_the_thread_ends_with_its_iterator(end):
    ahead = Ahead(itertools.count())
    assert next(ahead) == 0
    if end == "close":
        ahead.close()
        assert batch_threads() == []
    del ahead
    gc.collect()
    assert no_threads_soon()
