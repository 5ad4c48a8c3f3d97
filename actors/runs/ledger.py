"""The rows that a worker was given: each gets its terminal records exactly once, soon, whatever dies.

The ledger stands between Ray Data, which hands a worker tables of rows, and the worker itself. It leaves out rows that
are committed already, notes in the journal which rows are in flight, lets suspects of a process's death in alone, and
commits finished rows by the clock: at COMMIT_ROWS rows, or after COMMIT_SECONDS_AT_MOST. The worker calls `finish` for
each row.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pyarrow as pa
from ray.util.metrics import Counter

from actors.errors import EngineDied, UserError
from actors.runs.folder import RunFolder
from actors.runs.journal import Journal
from actors.runs.record_kinds import RecordKind
from actors.runs.records import RecordStore, Totals, read_ids
from actors.runs.session import check_session
from algorithms.row_errors import RowError

COMMIT_ROWS: Final = 1000
COMMIT_SECONDS_AT_MOST: Final = 45.0  # below the minute that is promised
COMMIT_SECONDS_AT_LEAST: Final = 2.0
POLL_SECONDS: Final = 0.2
EXIT_ENGINE_DIED: Final = 70  # exit status of the worker's process

Row = dict[str, Any]


class Ledger:
    """The rows of one worker, from their arrival to their commit in the run's `rows`.

    Raises UserError unless `session` may write to the run.
    """

    def __init__(self, run: RunFolder, session: str, kind: RecordKind) -> None:
        check_session(run, session)
        self._run = run
        self._session = session
        self._kind = kind
        for folder in (run.rows, run.journal):
            folder.make_folder()
        self._store = RecordStore(run.rows)
        self._journal = Journal(run.journal, session)
        self._committed_files = self._store.files_by_shard()
        self._committed_ids: dict[str, set[str]] = {}
        self._in_flight: dict[str, _Batch] = {}
        self._finished: dict[str, list[tuple[Row, list[Row]]]] = {}  # shard -> rows with their records
        self._spent: dict[str, float] = {}
        self._spending = threading.Lock()  # models compute in threads
        self._tasks: set[asyncio.Task[None]] = set()
        self._committer: asyncio.Task[None] | None = None
        self._gate: _Gate | None = None
        self._is_failing = False
        self._started = self._last_commit = time.monotonic()
        self._metrics = _Metrics(kind)

    async def process(self, table: pa.Table, work: Callable[[Row], Awaitable[None]]) -> pa.Table:
        """Work on each row of a table in a coroutine of its own, `work(row)`, which must call `finish` or `quarantine`.

        Returns how many rows the table had, once all of them are committed. What a coroutine raises ends the batch.
        """

        def begin(rows: list[Row]) -> None:
            for row in rows:
                task = asyncio.create_task(self._guarded(work(row)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        return await self.process_together(table, begin)

    async def process_together(self, table: pa.Table, begin: Callable[[list[Row]], None]) -> pa.Table:
        """As `process`, for a worker that drives many rows at once: `begin(rows)` starts them and returns."""
        self._gate = self._gate or _Gate()
        rows = [row for row in table.to_pylist() if row["id"] not in self._committed(row["shard"])]
        # Ray may deliver a task twice while the first delivery is at work. The second waits for the first.
        twins = {self._in_flight[row["id"]] for row in rows if row["id"] in self._in_flight}
        rows = [row for row in rows if row["id"] not in self._in_flight]
        suspects = {row["id"]: row for row in rows if self._journal.is_suspect(row["id"])}
        for group in self._journal.groups(list(suspects)):
            async with self._gate.alone():
                await self._process_noted([suspects[row_id] for row_id in group], begin)
        async with self._gate.shared():
            await self._process_noted([row for row in rows if row["id"] not in suspects], begin)
        await asyncio.gather(*(twin.committed for twin in twins))
        return pa.table({"num_rows": [table.num_rows], "num_done_before": [table.num_rows - len(rows)]})

    def finish(self, row: Row, *records: Row) -> None:
        """Hand in the terminal records of a row. A column that a record lacks takes the row's own value."""
        sources = {name: self._kind.taken_from.get(name, name) for name in self._kind.schema.names}
        given = {name: row[source] for name, source in sources.items() if source in row}
        self._finished.setdefault(row["shard"], []).append((row, [given | record for record in records]))
        if row["id"] in self._in_flight:  # not after a failure
            self._in_flight[row["id"]].unfinished -= 1

    def quarantine(self, row: Row, error: RowError | str, **values: Any) -> None:
        """Hand in a row that cannot be worked on, with the reason."""
        values |= {self._kind.row_column: row["id"]}
        self.finish(row, {"status": "quarantined", "reason": str(error)} | values)

    def raised(self, row: Row, error: Exception) -> None:
        """Hand in a row whose own work raised something unexpected."""
        self.quarantine(row, RowError("raised", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))

    def spend(self, **amounts: float) -> None:
        """Add to the cost of the work. The next commit's totals carry it."""
        with self._spending:
            for name, amount in amounts.items():
                self._spent[name] = self._spent.get(name, 0.0) + amount

    async def fail(self, error: BaseException) -> None:
        """Commit what is finished, then end every call in flight with `error`.

        If the engine has died, the process exits instead: the journal keeps its notes, so the rows in flight become
        suspects and the one that kills engines is isolated.
        """
        if self._is_failing:  # every row in flight reports a dead engine; the first report does it all
            return
        self._is_failing = True
        with contextlib.suppress(UserError, OSError):  # `error` says more than a failed commit
            await self._commit()
        self._is_failing = False
        if isinstance(error, EngineDied):
            os._exit(EXIT_ENGINE_DIED)
        self._fail_all(error)

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except BaseException as error:
            await self.fail(error)
            raise

    def _fail_all(self, error: BaseException) -> None:
        for batch in set(self._in_flight.values()):
            if not batch.committed.done():
                batch.committed.set_exception(error)

    async def _process_noted(self, rows: list[Row], begin: Callable[[list[Row]], None]) -> None:
        if not rows:
            return
        batch = _Batch(len(rows))
        self._in_flight.update((row["id"], batch) for row in rows)
        note = await asyncio.to_thread(self._journal.begin, [row["id"] for row in rows])
        good = []
        for row in rows:
            if row["reason"] is not None:
                self.quarantine(row, row["reason"])
            elif self._journal.is_convicted(row["id"]):
                self.quarantine(row, RowError("kills_the_process"))
            else:
                good.append(row)
        begin(good)
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit_by_the_clock())
        try:
            await batch.committed
        except Exception:
            # The process is alive, so its rows are not suspects.
            await asyncio.to_thread(self._journal.end, note)
            raise
        finally:
            for row in rows:
                del self._in_flight[row["id"]]
        await asyncio.to_thread(self._journal.end, note)

    async def _commit_by_the_clock(self) -> None:
        try:
            while self._in_flight:
                await asyncio.sleep(POLL_SECONDS)
                if self._is_commit_due():
                    await self._commit()
        except BaseException as error:
            self._fail_all(error)
            raise

    def _is_commit_due(self) -> bool:
        num_rows = sum(len(rows) for rows in self._finished.values())
        if num_rows == 0:
            return False
        batches = set(self._in_flight.values())
        if num_rows >= COMMIT_ROWS or all(batch.unfinished == 0 for batch in batches):
            return True
        # Commit often at first, so that a short run shows progress, and rarely later, so that files stay few. A batch
        # that waits only for its commit holds back the next one.
        now = time.monotonic()
        wait = min(COMMIT_SECONDS_AT_MOST, COMMIT_SECONDS_AT_LEAST + (now - self._started) / 20)
        if any(batch.unfinished == 0 for batch in batches):
            wait = COMMIT_SECONDS_AT_LEAST
        return now - self._last_commit >= wait

    async def _commit(self) -> None:
        await asyncio.to_thread(check_session, self._run, self._session)
        finished, self._finished = self._finished, {}
        for shard, rows in finished.items():
            for first in range(0, len(rows), COMMIT_ROWS):
                part = rows[first : first + COMMIT_ROWS]
                records = [record for _, mine in part for record in mine]
                totals = Totals.of(self._kind, len(part), records)
                with self._spending:
                    spent, self._spent = self._spent, {}
                totals.sums.update(spent)
                file = await asyncio.to_thread(self._store.commit, shard, records, self._kind.schema, totals)
                self._committed_files.setdefault(shard, []).append(file)
                self._committed_ids.pop(shard, None)
                self._metrics.count(totals)
                for row, _ in part:
                    if row["id"] in self._in_flight:  # not after a failure
                        self._in_flight[row["id"]].count_committed()
        self._last_commit = time.monotonic()

    def _committed(self, shard: str) -> set[str]:
        """The committed ids of a shard, from earlier processes and from this one."""
        if shard not in self._committed_ids:
            files = self._committed_files.get(shard, [])
            self._committed_ids = {shard: read_ids(files, self._kind.row_column)}
        return self._committed_ids[shard]


class _Batch:
    """The rows of one call: how many are unfinished, and a future for their commit."""

    def __init__(self, num_rows: int) -> None:
        self.unfinished = self._uncommitted = num_rows
        self.committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def count_committed(self) -> None:
        self._uncommitted -= 1
        if self._uncommitted == 0 and not self.committed.done():
            self.committed.set_result(None)


class _Gate:
    """Admits many calls together, or one alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._inside >= 0)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._inside == 0)
            self._inside = -1
        try:
            yield
        finally:
            async with self._changed:
                self._inside = 0
                self._changed.notify_all()


class _Metrics:
    """Counters in Ray's metrics (Prometheus). They count committed rows."""

    def __init__(self, kind: RecordKind) -> None:
        self._records = Counter("sluice_records", "Terminal records.", ("status",))
        names = (*kind.summed, "forward_seconds")
        self._sums = {name: Counter(f"sluice_{name}", f"{name} of the committed records.") for name in names}

    def count(self, totals: Totals) -> None:
        for status, number in totals.statuses.items():
            self._records.inc(number, {"status": status})
        for name, counter in self._sums.items():
            if totals.sums[name] > 0:  # a counter rejects an increase of zero
                counter.inc(totals.sums[name])
