"""When the ledger commits, and what becomes of rows when the work on them fails."""

import asyncio
import multiprocessing
from types import SimpleNamespace

import pyarrow as pa
import pytest

from actors.errors import EngineDied
from actors.runs.corpus import CHAIN_SCHEMA
from actors.runs.folder import open_run_folder
from actors.runs.ledger import EXIT_ENGINE_DIED, Ledger
from actors.runs.record_kinds import REFINEMENT
from actors.runs.session import begin_session
from tests.fixtures.rows import chain_row
from tests.fixtures.runs import records

UNCHANGED = {"status": "unchanged", "reason": "one_step"}


def open_ledger(folder):
    run = open_run_folder(str(folder))
    begin_session(run, "s")
    return Ledger(run, "s", REFINEMENT)


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


def test_an_error_ends_the_batch_after_finished_rows_are_committed(tmp_path):
    ledger = open_ledger(tmp_path)

    async def work(row):
        if row["id"] == "r2":
            await asyncio.sleep(0.05)
            raise RuntimeError("device lost")
        ledger.finish(row, UNCHANGED)

    with pytest.raises(RuntimeError, match="device lost"):
        asyncio.run(ledger.process(table_of(1, 2), work))
    assert set(records(tmp_path)) == {"r1"}
    assert list((tmp_path / "_journal").iterdir()) == []  # the process is alive, so nobody is a suspect


def lose_the_engine(folder):
    """In a process of its own: finish one row, then find the engine dead."""
    ledger = open_ledger(folder)

    async def work(row):
        if row["id"] == "r1":
            ledger.finish(row, UNCHANGED)
        else:
            await asyncio.sleep(0.05)
            raise EngineDied("the engine's process has died")

    asyncio.run(ledger.process(table_of(1, 2, 3), work))


def test_a_dead_engine_ends_the_process_with_finished_rows_committed_and_the_others_noted(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=lose_the_engine, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == EXIT_ENGINE_DIED
    assert set(records(tmp_path)) == {"r1"}
    assert len(list((tmp_path / "_journal").iterdir())) == 1
