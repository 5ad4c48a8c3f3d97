"""What an actor owes for the rows it was given: every one gets its terminal records, once, soon, whatever dies.

The ledger stands between Ray Data, which hands an actor tables of rows, and the actor's own work. It leaves
out rows that are committed already, notes in the journal what is in flight, lets suspects of a process's
death in alone, and commits finished rows by the clock. The actor says `finish` for each row.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pyarrow as pa
from ray.util.metrics import Counter

from actors.complaint import Complaint
from actors.journal import Journal
from actors.records import RecordKind, RecordStore, Totals, read_ids
from actors.storage import Storage
from algorithms.row_errors import RowError

COMMIT_ROWS: Final = 1000
COMMIT_SECONDS_AT_MOST: Final = 45.0  # under the minute that is promised
COMMIT_SECONDS_AT_LEAST: Final = 2.0
POLL_SECONDS: Final = 0.2
SESSION_FILE: Final = "_session"

Row = dict[str, Any]


class Ledger:
    """The rows of one actor, from when they come in to when they are committed in `run/rows`."""

    def __init__(self, run: Storage, session: str, kind: RecordKind) -> None:
        check_session(run, session)
        self._run = run
        self._session = session
        self._kind = kind
        for name in ("rows", "_journal"):
            (run / name).make_folder()
        self._store = RecordStore(run / "rows")
        self._journal = Journal(run / "_journal", session)
        self._committed_files = self._store.files_by_shard()
        self._committed_ids: dict[str, set[str]] = {}
        self._in_flight: dict[str, _Batch] = {}
        self._finished: dict[str, list[tuple[Row, list[Row]]]] = {}  # shard -> rows with their records
        self._spent: dict[str, float] = {}
        self._spending = threading.Lock()  # models work, and spend, in threads
        self._committer: asyncio.Task[None] | None = None
        self._gate: _Gate | None = None
        self._started = self._last_commit = time.monotonic()
        self._metrics = _Metrics(kind)

    async def process(self, table: pa.Table, begin: Callable[[list[Row]], None]) -> pa.Table:
        """Have the rows of a table worked on; returns when all of them are committed.

        `begin` starts work on rows; for each of them `finish` must be called some time. Returns how many
        rows the table had.
        """
        self._gate = self._gate or _Gate()
        rows = [row for row in table.to_pylist() if row["id"] not in self._committed(row["shard"])]
        # A task that Ray delivers twice while the first is at work waits for it.
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
        """The terminal records of a row. Of values that a record lacks the row's own are taken."""
        sources = {name: self._kind.taken_from.get(name, name) for name in self._kind.schema.names}
        given = {name: row[source] for name, source in sources.items() if source in row}
        self._finished.setdefault(row["shard"], []).append((row, [given | record for record in records]))
        if row["id"] in self._in_flight:  # not after a failure
            self._in_flight[row["id"]].unfinished -= 1

    def quarantine(self, row: Row, error: RowError | str, **values: Any) -> None:
        """Finish a row with the reason why it cannot be worked on."""
        values |= {self._kind.row_column: row["id"]}
        self.finish(row, {"status": "quarantined", "reason": str(error)} | values)

    def spend(self, **amounts: float) -> None:
        """Add to what the work has cost; the next commit's totals carry it."""
        with self._spending:
            for name, amount in amounts.items():
                self._spent[name] = self._spent.get(name, 0.0) + amount

    async def fail(self, error: BaseException) -> None:
        """End every call in flight with an error: nothing can go on. What is finished is committed still."""
        with contextlib.suppress(Complaint, OSError):  # the error that is raised says more
            await self._commit()
        self._fail_all(error)

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
            # This process lives: its rows are no suspects.
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
        # Often at first, so that a short run shows progress; rarely later, so that files stay few. A batch
        # that only waits for its commit holds back the next one.
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
        """Ids that are committed: by processes before this one, and by itself."""
        if shard not in self._committed_ids:
            files = self._committed_files.get(shard, [])
            self._committed_ids = {shard: read_ids(files, self._kind.row_column)}
        return self._committed_ids[shard]


class _Batch:
    """The rows of one call: how many are not finished, and whether all are committed."""

    def __init__(self, num_rows: int) -> None:
        self.unfinished = self._uncommitted = num_rows
        self.committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def count_committed(self) -> None:
        self._uncommitted -= 1
        if self._uncommitted == 0 and not self.committed.done():
            self.committed.set_result(None)


def check_session(run: Storage, session: str) -> None:
    """Raise Complaint unless `session` may write to a run: the one that opened it last may.

    Also where the run is not to be seen from this node.
    """
    try:
        owner = (run / SESSION_FILE).read_bytes().decode()
    except FileNotFoundError:
        raise Complaint(
            f"output {run.path} cannot be seen by an actor on {socket.gethostname()}: "
            "choose a path that all nodes share, or a URI"
        ) from None
    if owner != session:
        raise Complaint(f"another session has taken over {run.path}: let only one of them run")


class _Gate:
    """Lets many calls in together, or one alone."""

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
    """Counters in Ray's metrics (Prometheus), counted as rows are committed."""

    def __init__(self, kind: RecordKind) -> None:
        self._records = Counter("sluice_records", "Terminal records.", ("status",))
        names = (*kind.summed, "forward_seconds")
        self._sums = {name: Counter(f"sluice_{name}", f"{name} of the committed records.") for name in names}

    def count(self, totals: Totals) -> None:
        for status, number in totals.statuses.items():
            self._records.inc(number, {"status": status})
        for name, counter in self._sums.items():
            if totals.sums[name] > 0:  # a counter refuses to be increased by nothing
                counter.inc(totals.sums[name])
