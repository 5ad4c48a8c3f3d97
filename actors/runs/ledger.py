"""The rows that a worker was given: each gets its terminal records exactly once, soon, whatever dies.

The ledger stands between Ray Data, which hands a worker tables of rows, and the worker itself. It leaves out rows that
are committed already, lets in as many rows at once as the worker can hold, notes in the journal which rows these are,
lets suspects of a process's death in alone, and commits finished rows by the clock. The worker calls `finish` for each
row.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from ray.util.metrics import Counter

from actors.errors import EngineDied, SluiceError, StorageLost, UserError
from actors.runs.commits import Commit, CommitWriter
from actors.runs.folder import RunFolder
from actors.runs.journal import Journal, Note
from actors.runs.nodes import dead_nodes, this_actor, this_node
from actors.runs.record_kinds import RecordKind
from actors.runs.records import ShardIds, commit_of, write_records
from actors.runs.session import check_session
from actors.runs.totals import Totals
from algorithms.row_errors import RowError

logger = logging.getLogger(__name__)

COMMIT_ROWS: Final = 1000
COMMIT_SECONDS_AT_MOST: Final = 45.0  # below the minute that is promised
COMMIT_SECONDS_AT_LEAST: Final = 2.0
POLL_SECONDS: Final = 0.2
GROUPS: Final = 8  # notes for the rows that are at work at once
WRITERS: Final = 8  # files that are written at once
USERS_ERRORS: Final = (UserError, StorageLost, asyncio.CancelledError)  # of which no row is the cause

Row = dict[str, Any]
_FinishedRow = tuple[Row, list[Row]]  # with its records
Begin = Callable[[list[Row]], None]


class Ledger:
    """The rows of one worker, from their arrival to their commit. At most `capacity` rows are at work at once.

    Raises UserError unless `session` may write to the run.
    """

    def __init__(self, run: RunFolder, session: str, kind: RecordKind, capacity: int) -> None:
        self._run = run.patient()
        check_session(self._run, session)
        self._session = session
        self._kind = kind
        self._sources = [(name, kind.taken_from.get(name, name)) for name in kind.schema.names]
        for folder in (self._run.committed, self._run.journal, self._run.commit_logs):
            folder.make_folder()
        self._log = CommitWriter(self._run.commit_logs, session)
        self._journal = Journal(self._run.journal, session, this_node(), dead_nodes())
        self._committed = ShardIds(self._run.committed, kind.row_column)
        self._capacity = capacity
        self._places: asyncio.Semaphore | None = None
        self._gate: _Gate | None = None
        self._admission = asyncio.Lock()
        self._num_waiting = 0  # groups that wait for places
        self._in_flight: dict[str, _Group] = {}
        self._finished: dict[str, list[_FinishedRow]] = {}  # by shard
        self._num_proofs = 0  # rows that were finished: the process works
        self._doubtful: dict[str, Row] = {}  # rows that have raised once, and wait for a proof
        self._on_trial: str | None = None  # the one of them that is tried again
        self._spent: dict[str, float] = {}
        self._spending = threading.Lock()  # models compute in threads
        self._tasks: set[asyncio.Task[None]] = set()
        self._committer: asyncio.Task[None] | None = None
        self._commits = asyncio.Lock()
        self._is_failing = False
        self._started = self._last_commit = time.monotonic()
        self._writers = ThreadPoolExecutor(WRITERS)
        self._metrics = _Metrics(kind)

    async def process(self, table: pa.Table, work: Callable[[Row], Awaitable[None]]) -> pa.Table:
        """Work on each row of a table in a coroutine of its own, `work(row)`, which must call `finish` or `quarantine`.

        Returns how many rows the table had, once all of them are committed.
        """

        def begin(rows: list[Row]) -> None:
            for row in rows:
                self._start(self._guarded(work, row))

        return await self.process_together(table, begin)

    async def process_together(self, table: pa.Table, begin: Begin) -> pa.Table:
        """As `process`, for a worker that drives many rows at once: `begin(rows)` starts some and returns."""
        self._places = self._places or asyncio.Semaphore(self._capacity)
        self._gate = self._gate or _Gate()
        # Ray may deliver a task twice while the first delivery is at work. The second waits for the first. Look before
        # the committed ids are read, since rows are committed before they leave, and after it, since rows come in.
        rows, twins = self._without_twins(table.to_pylist())
        committed: set[str] = set()
        for shard in dict.fromkeys(row["shard"] for row in rows):
            committed |= await asyncio.to_thread(self._committed.of, shard)
        rows, more_twins = self._without_twins([row for row in rows if row["id"] not in committed])
        groups = self._grouped(rows, begin)
        self._in_flight.update((row["id"], group) for group in groups for row in group.rows)
        try:
            for group in groups:
                if group.alone:
                    async with self._gate.alone():
                        await self._process_group(group)
            await _all_ended(self._process_shared(group) for group in groups if not group.alone)
        finally:
            for row in rows:
                self._in_flight.pop(row["id"], None)
        await asyncio.gather(*(twin.committed for twin in twins | more_twins))
        return pa.table({"num_rows": [table.num_rows], "num_done_before": [table.num_rows - len(rows)]})

    def finish(self, row: Row, *records: Row) -> None:
        """Hand in the terminal records of a row. A column that a record lacks takes the row's own value."""
        group = self._in_flight.get(row["id"])
        if group is None or row["id"] not in group.at_work:
            return  # after a failure, which has given the row back
        group.at_work.discard(row["id"])
        recorded = [self._record(row, record) for record in records]
        self._finished.setdefault(row["shard"], []).append((row, recorded))
        assert self._places is not None, "rows at work hold places"
        self._places.release()
        if row["id"] == self._on_trial:
            self._on_trial = None
        if recorded and recorded[0]["status"] != "quarantined":
            self._num_proofs += 1
        self._settle_doubts()

    def quarantine(self, row: Row, error: RowError | str, **values: Any) -> None:
        """Hand in a row that cannot be worked on, with the reason."""
        self.finish(row, self._quarantined(row, str(error)) | values)

    def _quarantined(self, row: Row, reason: str) -> Row:
        return {"status": "quarantined", "reason": reason, self._kind.row_column: row["id"]}

    def _record(self, row: Row, record: Row) -> Row:
        return {name: row[source] for name, source in self._sources if source in row} | record

    def raised(self, row: Row, error: Exception) -> None:
        """Hand in a row whose own work raised something unexpected. It is tried once more, then quarantined.

        The second trial waits until another row is finished, if there is one at work. Rows are tried again one at a
        time, since one of them may spoil the others' work. If a row raises twice and none was finished in between, the
        fault may be the process's: it fails, and the journal isolates the row if it is a row's.
        """
        logger.error("row %s raised in %s", row["id"], this_actor(), exc_info=error)
        group = self._in_flight.get(row["id"])
        if group is None or row["id"] not in group.at_work:
            return
        proofs_before = group.raised.setdefault(row["id"], self._num_proofs)
        if row["id"] != self._on_trial:
            self._doubtful[row["id"]] = row
            self._settle_doubts()
        elif self._num_proofs > proofs_before:
            self.quarantine(row, RowError("raised", _described(error)))
        else:
            self._start(self.fail(error))

    def _settle_doubts(self) -> None:
        """Try a row again that has raised, if the process has proved since that it works, or has no other row to."""
        if self._on_trial is not None or not self._doubtful:
            return
        row_id = next(iter(self._doubtful))
        at_work = {each for group in set(self._in_flight.values()) if group.has_begun for each in group.at_work}
        group = self._in_flight[row_id]
        if self._num_proofs > group.raised[row_id] or at_work <= self._doubtful.keys():
            self._on_trial = row_id
            group.begin([self._doubtful.pop(row_id)])

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def spend(self, **amounts: float) -> None:
        """Add to the cost of the work. The next commit's totals carry it."""
        with self._spending:
            for name, amount in amounts.items():
                self._spent[name] = self._spent.get(name, 0.0) + amount

    async def fail(self, error: BaseException) -> None:
        """Commit what is finished, then end every call in flight with `error`.

        Unless the user must act, the journal keeps its notes with the error as last words: the process cannot go on
        (`actors.runs.worker`), and a row that is the cause is isolated.
        """
        if self._is_failing:  # every row in flight reports a dead engine; the first report does it all
            return
        self._is_failing = True
        try:
            if not isinstance(error, StorageLost):  # which has just been waited for
                with contextlib.suppress(Exception):  # `error` says more than a failed commit
                    await self._commit()
            if not isinstance(error, USERS_ERRORS):
                await self._leave_notes("" if isinstance(error, EngineDied) else _described(error))
        finally:
            self._is_failing = False
            self._fail_all(error)

    async def _leave_notes(self, words: str) -> None:
        for group in set(self._in_flight.values()):
            if group.note is not None and words:
                with contextlib.suppress(StorageLost, OSError):
                    await asyncio.to_thread(group.note.with_error(words).write)
            group.note = None

    def _grouped(self, rows: list[Row], begin: Begin) -> list["_Group"]:
        suspects = {row["id"]: row for row in rows if self._journal.is_suspect(row["id"])}
        alone = self._journal.groups(list(suspects), self._capacity)
        others = [row for row in rows if row["id"] not in suspects]
        size = max(1, self._capacity // GROUPS)
        return [
            *(_Group([suspects[row_id] for row_id in ids], begin, alone=True) for ids in alone),
            *(_Group(others[first : first + size], begin) for first in range(0, len(others), size)),
        ]

    def _without_twins(self, rows: list[Row]) -> tuple[list[Row], set["_Group"]]:
        """The rows that are not in flight, and the groups of those that are."""
        others = [row for row in rows if row["id"] not in self._in_flight]
        return others, {self._in_flight[row["id"]] for row in rows if row["id"] in self._in_flight}

    async def _guarded(self, work: Callable[[Row], Awaitable[None]], row: Row) -> None:
        try:
            await work(row)
        except SluiceError as error:
            await self.fail(error)
        except Exception as error:  # noqa: BLE001 - whatever the row makes its work raise
            self.raised(row, error)

    def _fail_all(self, error: BaseException) -> None:
        self._finished.clear()  # these rows are given back, and done again
        self._doubtful.clear()
        self._on_trial = None
        for group in set(self._in_flight.values()):
            if not group.committed.done():
                group.committed.set_exception(error)

    async def _process_shared(self, group: "_Group") -> None:
        assert self._places is not None, "there are places for rows"
        assert self._gate is not None, "there is a gate"
        async with self._gate.shared():
            await self._process_group(group)

    async def _process_group(self, group: "_Group") -> None:
        assert self._places is not None, "there are places for rows"
        taken = 0
        try:
            self._num_waiting += 1
            try:
                async with self._admission:  # one group after another: all of them with half their places is no use
                    for _ in group.rows:
                        await self._places.acquire()
                        taken += 1
            finally:
                self._num_waiting -= 1
            if group.committed.done():  # by a failure in the meantime
                await group.committed
            ids, shards = ([row[name] for row in group.rows] for name in ("id", "shard"))
            group.note = await asyncio.to_thread(self._journal.begin, ids, shards, group.alone)
            if not group.committed.done():  # by a failure in the meantime
                group.has_begun = True
                group.begin(self._sound(group))
            if self._committer is None or self._committer.done():
                self._committer = asyncio.create_task(self._commit_by_the_clock())
            await group.committed
        finally:
            for _ in range(len(group.at_work) - (len(group.rows) - taken)):
                self._places.release()
            for row in group.rows:
                self._in_flight.pop(row["id"], None)
            # After an error of the user as well: the rows are no suspects. A storage that is lost is not asked again.
            if group.note is not None and not (group.committed.done() and _is_storage_lost(group.committed)):
                await asyncio.to_thread(self._journal.end, group.note)

    def _sound(self, group: "_Group") -> list[Row]:
        """The rows of a group that can be worked on. The others are quarantined."""
        sound = []
        for row in group.rows:
            words = self._journal.last_words(row["id"])
            if row["reason"] is not None:
                self.quarantine(row, row["reason"])
            elif self._journal.is_convicted(row["id"]):
                self.quarantine(row, RowError("raised", words) if words else RowError("kills_the_process"))
            else:
                sound.append(row)
        return sound

    async def _commit_by_the_clock(self) -> None:
        try:
            while self._in_flight:
                await asyncio.sleep(POLL_SECONDS)
                if self._is_commit_due():
                    await self._commit()
        except Exception as error:  # noqa: BLE001  every call in flight raises it
            await self.fail(error)
        except asyncio.CancelledError as error:
            self._fail_all(error)
            raise

    def _is_commit_due(self) -> bool:
        num_rows = sum(len(rows) for rows in self._finished.values())
        if num_rows == 0:
            return False
        begun = {group for group in self._in_flight.values() if group.has_begun}
        if num_rows >= COMMIT_ROWS or not any(group.at_work for group in begun):
            return True
        # Commit often at first, so that a short run shows progress, and rarely later, so that files stay few. But Ray
        # gives no more rows while whole calls wait for their commit.
        now = time.monotonic()
        wait = min(COMMIT_SECONDS_AT_MOST, COMMIT_SECONDS_AT_LEAST + (now - self._started) / 40)
        if self._num_waiting == 0 and any(not group.at_work for group in begun):
            wait = COMMIT_SECONDS_AT_LEAST
        return now - self._last_commit >= wait

    async def _commit(self) -> None:
        """Commit what is finished. No file is being written any more once this returns or raises."""
        async with self._commits:
            await asyncio.to_thread(check_session, self._run, self._session)
            finished, self._finished = self._finished, {}
            files = await asyncio.to_thread(self._files, finished)
            if files:
                await asyncio.to_thread(self._log.announce, [file.commit for file in files])
                await _all_ended(map(self._write, files))
            self._last_commit = time.monotonic()

    def _files(self, finished: dict[str, list[_FinishedRow]]) -> list["_File"]:
        """What is finished, as files. The first file's totals carry what the work has cost."""
        files = []
        for shard, rows in finished.items():
            for first in range(0, len(rows), COMMIT_ROWS):
                part = rows[first : first + COMMIT_ROWS]
                table, records = self._table(part)
                totals = Totals.of(self._kind, len(part), records)
                with self._spending:
                    spent, self._spent = self._spent, {}
                totals.sums.update(spent)
                files.append(_File(commit_of(shard, totals), table, [row["id"] for row, _ in part]))
        return files

    def _table(self, part: list[_FinishedRow]) -> tuple[pa.Table, list[Row]]:
        """The records of some rows. A row whose records Arrow cannot hold, such as half a character, is quarantined."""
        records = [record for _, mine in part for record in mine]
        try:
            return pa.Table.from_pylist(records, schema=self._kind.schema), records
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            if len(part) == 1:
                [(row, _)] = part
                reason = str(RowError("unwritable", _described(error)))
                return self._table([(row, [self._record(row, self._quarantined(row, reason))])])
        tables, found = zip(*(self._table([each]) for each in part), strict=True)
        return pa.concat_tables(tables), [record for mine in found for record in mine]

    async def _write(self, file: "_File") -> None:
        arguments = (self._run.committed, file.commit, file.table)
        await asyncio.get_running_loop().run_in_executor(self._writers, write_records, *arguments)
        self._metrics.count(file.commit.totals)
        for row_id in file.row_ids:
            if row_id in self._in_flight:  # not after a failure
                self._in_flight[row_id].count_committed()


@dataclass(frozen=True)
class _File:
    """Records that are about to be committed, of the rows `row_ids`."""

    commit: Commit
    table: pa.Table
    row_ids: list[str]


class _Group:
    """Rows with one note in the journal, and a future for their commit. `begin` starts some of them."""

    def __init__(self, rows: list[Row], begin: Begin, alone: bool = False) -> None:
        self.rows = rows
        self.begin = begin
        self.alone = alone
        self.note: Note | None = None
        self.has_begun = False
        self.at_work = {row["id"] for row in rows}
        self.raised: dict[str, int] = {}  # rows that have raised, with the number of proofs before
        self._uncommitted = len(rows)
        self.committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def count_committed(self) -> None:
        self._uncommitted -= 1
        if self._uncommitted == 0 and not self.committed.done():
            self.committed.set_result(None)


async def _all_ended(work: Iterable[Awaitable[None]]) -> None:
    """Wait for all of `work`, then raise the first error. `gather` alone raises while the others go on."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _is_storage_lost(committed: asyncio.Future[None]) -> bool:
    return not committed.cancelled() and isinstance(committed.exception(), StorageLost)


def _described(error: BaseException) -> str:
    words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return words.encode("utf-8", "backslashreplace").decode()


class _Gate:
    """Admits many groups together, or one alone. While one waits to be alone, nobody else is let in."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._waiting = 0  # to be alone

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._inside >= 0 and self._waiting == 0)
            self._inside += 1
        try:
            yield
        finally:
            await self._leave()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._changed:
            self._waiting += 1
            try:
                await self._changed.wait_for(lambda: self._inside == 0)
                self._inside = -1
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            self._inside = 1
            await self._leave()

    async def _leave(self) -> None:
        async with self._changed:
            self._inside -= 1
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
