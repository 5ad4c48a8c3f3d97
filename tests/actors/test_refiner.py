"""The refiner as the plain callable it is, without Ray Data, with a table scorer."""

import asyncio
import functools
import time

import pyarrow as pa
import pytest

from actors.refiner import Refiner
from actors.runs.corpus import CHAIN_SCHEMA
from actors.runs.ledger import COMMIT_SECONDS_AT_MOST, SESSION_FILE
from actors.runs.records import RecordStore
from actors.runs.storage import open_storage
from algorithms.chains import Chain
from algorithms.refinement import Policy, refine
from tests.fixtures.table_scorer import TableScorer, look_up

POLICY = Policy(t1=1.0, unmerged="drop")


def row(number, **values):
    return {"id": f"r{number}", "shard": "0000000-0000000", "reason": None, "question": f"q{number}",
            "steps": ["aa", "bb", "cc", str(number)], "answer": str(number), "joiner": "\n",
            "source": "{}"} | values  # fmt: skip


def refiner(run, scorer=TableScorer, session="s"):
    (run / SESSION_FILE).write_text(session)
    return Refiner(scorer, POLICY, open_storage(str(run)), session)


def table_of(rows):
    return pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA)


def call(actor, *batches):
    async def all_batches():
        return await asyncio.gather(*(actor(table_of(batch)) for batch in batches))

    return asyncio.run(all_batches())


def records(run):
    found = [each for batch in RecordStore(open_storage(str(run / "rows"))).batches() for each in batch.to_pylist()]
    assert len({record["id"] for record in found}) == len(found)
    return {record["id"]: record for record in found}


def plainly_refined(given):
    generator = refine(Chain(given["question"], tuple(given["steps"]), given["answer"]), POLICY)
    request = next(generator)
    while True:
        try:
            request = generator.send([look_up(variant.text) for variant in request.variants])
        except StopIteration as stop:
            return list(stop.value.steps)


def test_many_batches_at_once_give_each_row_what_it_gets_alone(tmp_path):
    rows = [row(number) for number in range(60)]
    stats = call(refiner(tmp_path), rows[:25], rows[25:26], rows[26:])
    assert [each.to_pylist() for each in stats] == [[{"num_rows": n, "num_done_before": 0}] for n in (25, 1, 34)]
    found = records(tmp_path)
    assert {row_id: record["refined_steps"] for row_id, record in found.items()} == {
        each["id"]: plainly_refined(each) for each in rows
    }
    assert {record["status"] for record in found.values()} == {"refined", "unchanged"}
    for record in found.values():
        assert len(record["edits"]) == 4 - len(record["refined_steps"])
        assert (record["reason"] is None) == (record["status"] == "refined")
        assert record["tokens_naive"] >= record["tokens_scored"] > 0
    assert not list((tmp_path / "_journal").iterdir())


def test_broken_rows_are_quarantined_and_rows_done_before_are_left_out(tmp_path):
    call(refiner(tmp_path), [row(1), row(2, reason="invalid_json: x", steps=None, question=None, answer=None)])
    assert records(tmp_path)["r2"]["reason"] == "invalid_json: x"
    [stats] = call(refiner(tmp_path), [row(1), row(2), row(3)])
    assert stats.to_pylist() == [{"num_rows": 3, "num_done_before": 2}]
    assert set(records(tmp_path)) == {"r1", "r2", "r3"}


def test_rows_that_come_in_during_the_last_commit_are_not_forgotten(tmp_path):
    actor = refiner(tmp_path)
    commit = actor._ledger._store.commit
    late = []

    def slow_commit(*arguments):
        # Runs in a thread: the event loop takes in the second batch meanwhile.
        if not late:
            late.append(asyncio.run_coroutine_threadsafe(actor(table_of([row(2)])), loop[0]))
            time.sleep(0.2)
        return commit(*arguments)

    actor._ledger._store.commit = slow_commit
    loop = []

    async def first_then_late():
        loop.append(asyncio.get_running_loop())
        await actor(table_of([row(1)]))
        await asyncio.wait_for(asyncio.wrap_future(late[0]), timeout=20)

    asyncio.run(first_then_late())
    assert set(records(tmp_path)) == {"r1", "r2"}


def test_a_batch_that_is_delivered_twice_is_done_once(tmp_path):
    rows = [row(number) for number in range(30)]
    actor = refiner(tmp_path)
    stats = call(actor, rows, rows, rows[10:])
    assert [each["num_rows"].to_pylist() for each in stats] == [[30], [30], [20]]
    assert call(actor, rows)[0]["num_done_before"].to_pylist() == [30]
    assert len(records(tmp_path)) == 30


def test_only_the_last_session_may_write_and_only_where_the_run_can_be_seen(tmp_path):
    first = refiner(tmp_path, session="first")
    second = refiner(tmp_path, session="second")
    with pytest.raises(ValueError, match="another session has taken over"):
        call(first, [row(1)])
    call(second, [row(2)])
    assert set(records(tmp_path)) == {"r2"}
    with pytest.raises(ValueError, match="cannot be seen by an actor"):
        Refiner(TableScorer, POLICY, open_storage(str(tmp_path / "elsewhere")), "s")


def test_finished_rows_are_committed_during_a_long_pass(tmp_path):
    seen = []

    class Slow(TableScorer):
        def score(self, tasks):
            if len(tasks) == 1 and tasks[0].request.variants[0].text.startswith("q9"):
                deadline = time.monotonic() + 20
                while not records(tmp_path) and time.monotonic() < deadline:
                    time.sleep(0.05)
                seen.append(len(records(tmp_path)))
            return super().score(tasks)

    rows = [row(1, reason="no_steps"), row(9)]
    call(refiner(tmp_path, Slow), rows)
    assert seen[0] == 1


def test_metrics_count_what_is_committed(tmp_path, monkeypatch):
    from collections import Counter

    counted = Counter()

    def inc(self, value=1.0, tags=None):
        counted[(self.info["name"], *(tags or {}).values())] += value

    monkeypatch.setattr("ray.util.metrics.Counter.inc", inc)
    call(refiner(tmp_path), [row(number) for number in range(20)], [row(99, reason="no_steps")])
    totals = RecordStore(open_storage(str(tmp_path / "rows"))).totals()
    sums = {(f"sluice_{name}",): value for name, value in totals.sums.items() if value}
    assert counted == {
        **{("sluice_records", status): number for status, number in totals.statuses.items()},
        **{name: pytest.approx(value) for name, value in sums.items()},
    }
    assert {name for (name,) in sums} > {"sluice_forward_seconds", "sluice_tokens_scored"}
    assert totals.statuses["quarantined"] == 1


def test_an_empty_batch_and_one_of_broken_rows_only_return(tmp_path):
    stats = call(refiner(tmp_path), [], [row(1, reason="no_steps")])
    assert [each["num_rows"].to_pylist() for each in stats] == [[0], [1]]


def test_suspects_are_tried_alone_and_a_convict_is_quarantined(tmp_path):
    first = refiner(tmp_path)
    for _ in range(2):
        first._ledger._journal.begin(["r1"])  # a process that dies leaves its note
    first._ledger._journal.begin([f"r{number}" for number in range(16)])

    seen = []

    class Watcher(TableScorer):
        def score(self, tasks):
            seen.append({task.request.variants[0].text.split()[0] for task in tasks})
            return super().score(tasks)

    call(refiner(tmp_path, Watcher), [row(number) for number in range(20)])
    found = records(tmp_path)
    assert len(found) == 20
    assert found["r1"]["reason"] == "kills_the_process"
    assert max(map(len, seen[:-4])) <= 2  # 16 suspects go in groups of 2
    assert not any("q1" in texts for texts in seen)


def test_a_failing_scorer_fails_the_call_and_not_the_rows(tmp_path):
    class Broken(TableScorer):
        def score(self, tasks):
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        call(refiner(tmp_path, Broken), [row(1), row(2, reason="no_steps")])
    # What was finished is kept, and who was in flight is no suspect: the process lives.
    assert set(records(tmp_path)) == {"r2"}
    assert not list((tmp_path / "_journal").iterdir())


def test_finished_rows_are_committed_while_slow_ones_are_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr("actors.runs.ledger.COMMIT_SECONDS_AT_LEAST", 0.0)
    monkeypatch.setattr("actors.runs.ledger.POLL_SECONDS", 0.01)
    committed = []

    class Slow(TableScorer):
        def score(self, tasks):
            time.sleep(0.05)
            committed.append(len(records(tmp_path)))
            return super().score(tasks)

    call(refiner(tmp_path, functools.partial(Slow, token_budget=256)), [row(number) for number in range(40)])
    assert committed[-1] > 20


def test_finished_rows_wait_for_less_than_a_minute_however_long_the_run(tmp_path):
    ledger = refiner(tmp_path)._ledger

    class Batch:
        unfinished = 1

    ledger._in_flight["r1"] = Batch()
    ledger._finished = {"s": [(row(1), [])]}
    ledger._started = time.monotonic() - 1e6
    ledger._last_commit = time.monotonic() - COMMIT_SECONDS_AT_MOST + 5
    assert not ledger._is_commit_due()
    ledger._last_commit -= 5
    assert ledger._is_commit_due()
    assert COMMIT_SECONDS_AT_MOST < 60
