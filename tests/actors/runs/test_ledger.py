"""When the ledger commits, and what becomes of rows when the work on them fails."""

import asyncio
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pytest

from actors.errors import CallCrashed, EngineDied, UserError
from actors.runs.corpus import CHAIN_SCHEMA
from actors.runs.folder import open_run_folder
from actors.runs.journal import read_notes
from actors.runs.ledger import Ledger
from actors.runs.record_kinds import REFINEMENT
from actors.runs.records import RecordStore, write_records
from actors.runs.session import begin_session
from algorithms.row_errors import RowError
from tests.fixtures.rows import chain_row
from tests.fixtures.runs import records

UNCHANGED = {"status": "unchanged", "reason": "one_step"}


def open_ledger(folder, capacity=100):
    run = open_run_folder(str(folder))
    begin_session(run, "s")
    return Ledger(run, "s", REFINEMENT, capacity)


def table_of(*numbers):
    return pa.Table.from_pylist([chain_row(number) for number in numbers], schema=CHAIN_SCHEMA)


def test_a_finished_row_waits_for_less_than_a_minute_in_a_long_run(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("actors.runs.ledger.time", clock)
    ledger, slow = open_ledger(tmp_path), asyncio.Event()

    async def work(row):
        if row["id"] == "r3":
            await slow.wait()
        ledger.finish(row, UNCHANGED)

    async def run():
        clock.now = 1e6  # after days, commits are as rare as they get
        await ledger.process(table_of(1), work)
        late = asyncio.create_task(ledger.process(table_of(2, 3), work))
        clock.now += 40
        await asyncio.sleep(0.5)
        assert set(records(tmp_path)) == {"r1"}
        clock.now += 10
        while set(records(tmp_path)) != {"r1", "r2"}:
            await asyncio.sleep(0.05)
        slow.set()
        await late

    asyncio.run(asyncio.wait_for(run(), timeout=60))
    assert set(records(tmp_path)) == {"r1", "r2", "r3"}


def test_an_error_that_the_user_must_mend_ends_the_batch_after_finished_rows_are_committed(tmp_path):
    ledger = open_ledger(tmp_path)

    async def work(row):
        if row["id"] == "r2":
            await asyncio.sleep(0.05)
            raise UserError("the key is wrong")
        ledger.finish(row, UNCHANGED)

    with pytest.raises(UserError, match="the key is wrong"):
        asyncio.run(ledger.process(table_of(1, 2), work))
    assert set(records(tmp_path)) == {"r1"}
    assert list((tmp_path / "_journal").iterdir()) == []  # the process is alive, so nobody is a suspect


def test_a_row_that_raises_is_tried_again_and_then_quarantined(tmp_path):
    ledger, tries = open_ledger(tmp_path), Counter()

    async def work(row):
        tries[row["id"]] += 1
        if row["id"] == "always" or (row["id"] == "once" and tries["once"] == 1):
            await asyncio.sleep(0.5)
            raise KeyError("no such thing")
        ledger.finish(row, UNCHANGED)

    rows = [chain_row(1) | {"id": name} for name in ("fine", "once", "always")]

    async def all_rows():
        await ledger.process(pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA), work)

    asyncio.run(all_rows())
    found = records(tmp_path)
    assert {name: found[name]["reason"] for name in ("fine", "once", "always")} == {
        "fine": "one_step", "once": "one_step", "always": "raised: KeyError: 'no such thing'",
    }  # fmt: skip
    assert tries == {"fine": 1, "once": 2, "always": 2}


@pytest.mark.parametrize("first_works", [True, False], ids=["broken later", "broken at once"])
def test_a_process_that_is_broken_fails_and_quarantines_nothing(tmp_path, first_works):
    ledger = open_ledger(tmp_path)

    async def work(row):
        if row["id"] == "r1" and first_works:
            ledger.finish(row, UNCHANGED)
            return
        await asyncio.sleep(0.05)
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        asyncio.run(asyncio.wait_for(ledger.process(table_of(1, 2, 3, 4), work), timeout=30))
    assert set(records(tmp_path)) == ({"r1"} if first_works else set())
    notes = read_notes(open_run_folder(str(tmp_path)).journal)
    assert {note.error for note in notes} == {"RuntimeError: device-side assert triggered"}


def test_a_row_that_raised_does_not_wait_for_rows_that_are_only_quarantined(tmp_path):
    ledger = open_ledger(tmp_path)
    tries = Counter()

    async def work(row):
        tries[row["id"]] += 1
        if row["id"] == "r1" and tries["r1"] == 1:
            raise KeyError("once")
        await asyncio.sleep(0.05)
        if row["id"] == "r1":
            ledger.finish(row, UNCHANGED)
        else:
            ledger.quarantine(row, RowError("too_long"))

    asyncio.run(asyncio.wait_for(ledger.process(table_of(1, 2), work), timeout=30))
    assert {row_id: row["reason"] for row_id, row in records(tmp_path).items()} == {"r1": "one_step", "r2": "too_long"}


def test_a_row_that_spoils_the_pass_of_others_is_quarantined_alone(tmp_path):
    ledger, waiting = open_ledger(tmp_path), []

    def begin(rows):
        waiting.extend(rows)

    async def passes():  # of at most three rows each; r2 makes its pass raise
        while True:
            await asyncio.sleep(0.01)
            now = [waiting.pop(0) for _ in range(min(3, len(waiting)))]
            spoilt = any(row["id"] == "r2" for row in now)
            for row in now:
                ledger.raised(row, ValueError("NaN")) if spoilt else ledger.finish(row, UNCHANGED)

    async def run():
        working = asyncio.create_task(passes())
        await ledger.process_together(table_of(*range(9)), begin)
        working.cancel()

    asyncio.run(asyncio.wait_for(run(), timeout=30))
    assert {row_id: row["reason"] for row_id, row in records(tmp_path).items()} == {
        f"r{number}": "raised: ValueError: NaN" if number == 2 else "one_step" for number in range(9)
    }


def test_a_row_whose_record_cannot_be_written_is_quarantined(tmp_path):
    ledger = open_ledger(tmp_path)
    steps = {"r1": "fine", "r2": "half a character \ud83d", "r3": "fine"}

    async def work(row):
        ledger.finish(row, UNCHANGED | {"refined_steps": [steps[row["id"]]]})

    asyncio.run(asyncio.wait_for(ledger.process(table_of(1, 2, 3), work), timeout=30))
    found = records(tmp_path)
    assert {row_id: row["status"] for row_id, row in found.items()} == {
        "r1": "unchanged", "r2": "quarantined", "r3": "unchanged",
    }  # fmt: skip
    assert found["r2"]["reason"].startswith("unwritable: UnicodeEncodeError: ")
    assert found["r2"]["question"] == chain_row(2)["question"]
    statuses = RecordStore(open_run_folder(str(tmp_path))).totals().statuses
    assert statuses == {"unchanged": 2, "quarantined": 1}


def test_an_error_while_committing_leaves_notes(tmp_path, monkeypatch):
    def broken(*arguments):
        raise ArithmeticError("no such thing")

    monkeypatch.setattr("actors.runs.ledger.write_records", broken)
    ledger = open_ledger(tmp_path)

    async def work(row):
        ledger.finish(row, UNCHANGED)

    with pytest.raises(ArithmeticError):
        asyncio.run(asyncio.wait_for(ledger.process(table_of(1, 2), work), timeout=30))
    notes = read_notes(open_run_folder(str(tmp_path)).journal)
    assert {row_id for note in notes for row_id in note.ids} == {"r1", "r2"}


def test_no_more_rows_are_at_work_than_the_worker_can_hold(tmp_path):
    ledger = open_ledger(tmp_path, capacity=5)
    at_work, most = set(), []

    async def work(row):
        at_work.add(row["id"])
        most.append(len(at_work))
        await asyncio.sleep(0.01)
        at_work.discard(row["id"])
        ledger.finish(row, UNCHANGED)

    async def several():
        await asyncio.gather(*(ledger.process(table_of(*range(first, first + 20)), work) for first in (0, 20, 40)))

    asyncio.run(several())
    assert len(records(tmp_path)) == 60
    assert max(most) == 5


def test_a_batch_of_a_dead_worker_is_not_done_again_by_another(tmp_path):
    first, second = open_ledger(tmp_path), open_ledger(tmp_path)

    async def work(row):
        first.finish(row, UNCHANGED)

    async def never(row):
        raise AssertionError("it is committed")

    asyncio.run(first.process(table_of(1, 2), work))
    [stats] = asyncio.run(second.process(table_of(1, 2), never)).to_pylist()
    assert stats == {"num_rows": 2, "num_done_before": 2}


@pytest.mark.parametrize(
    ("error", "words"),
    [(EngineDied("gone"), None), (CallCrashed("exit code 1"), "CallCrashed: exit code 1")],
    ids=["engine", "other"],
)
def test_an_error_of_the_process_leaves_notes_with_its_last_words(tmp_path, error, words):
    ledger = open_ledger(tmp_path)

    async def work(row):
        if row["id"] == "r1":
            ledger.finish(row, UNCHANGED)
        else:
            await asyncio.sleep(0.05)
            raise error

    with pytest.raises(type(error)):
        asyncio.run(ledger.process(table_of(1, 2, 3), work))
    assert set(records(tmp_path)) == {"r1"}
    notes = read_notes(open_run_folder(str(tmp_path)).journal)
    assert {row_id for note in notes for row_id in note.ids} == {"r1", "r2", "r3"}
    assert {note.error for note in notes} == {words}


def test_rows_that_a_failure_gives_back_are_not_committed_later(tmp_path, monkeypatch):
    writing = threading.Event()

    def first_write_is_slow(*arguments):
        if not writing.is_set():
            writing.set()
            time.sleep(0.5)
        write_records(*arguments)

    monkeypatch.setattr("actors.runs.ledger.write_records", first_write_is_slow)
    monkeypatch.setattr("actors.runs.ledger.COMMIT_SECONDS_AT_LEAST", 0.0)
    ledger = open_ledger(tmp_path)

    async def fail_during_the_commit(row):
        if row["id"] != "r1":
            await asyncio.to_thread(writing.wait)
        if row["id"] == "r3":
            raise UserError("not now")
        ledger.finish(row, UNCHANGED)

    async def finish(row):
        ledger.finish(row, UNCHANGED)

    async def run():
        with pytest.raises(UserError, match="not now"):
            await ledger.process(table_of(1, 2, 3), fail_during_the_commit)
        given_back = {"r1", "r2", "r3"} - set(records(tmp_path))
        assert "r3" in given_back
        other = open_ledger(tmp_path)
        await other.process_together(table_of(1, 2, 3), lambda rows: [other.finish(row, UNCHANGED) for row in rows])
        await ledger.process(table_of(4), finish)
        assert set(records(tmp_path)) == {"r1", "r2", "r3", "r4"}  # each once

    asyncio.run(asyncio.wait_for(run(), timeout=60))
