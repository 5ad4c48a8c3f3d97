"""Refines rows in a Ray actor: many refinements at once, one scorer kept busy.

Every row is a generator (`algorithms.refinement.refine`) that waits for perplexities. The requests that wait,
of all batches in flight, are packed into one forward pass under the scorer's token budget; while a pass runs
the answers of the one before are handed out and their next requests made ready. New rows are started only
when those at work cannot fill a pass, so that rows finish, and are committed, early.
"""

import asyncio
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa
from ray.util.metrics import Counter

from actors.journal import Journal
from actors.records import RecordStore, Totals, read_ids
from actors.scorer_protocol import Scored, Scorer, ScoringTask
from actors.storage import Storage
from algorithms.chains import Chain
from algorithms.formats import RowError
from algorithms.refinement import Policy, Refinement, Reply, Request, ScoreRequest, refine

COMMIT_ROWS: Final = 1000
COMMIT_SECONDS_AT_MOST: Final = 45.0  # under the minute that is promised
COMMIT_CHECK_SECONDS: Final = 5.0
SESSION_FILE: Final = "_session"

Row = dict[str, Any]


class _Batch:
    """The rows of one call that are not committed yet."""

    def __init__(self, num_rows: int) -> None:
        self._left = num_rows
        self.committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if num_rows == 0:
            self.committed.set_result(None)

    def count_committed(self, num_rows: int) -> None:
        self._left -= num_rows
        if self._left == 0 and not self.committed.done():
            self.committed.set_result(None)


@dataclass(eq=False, slots=True)
class _Work:
    """A row on its way. `task` is its latest request; before the first one the row has not begun."""

    row: Row
    batch: _Batch
    generator: Generator[Request, Reply, Refinement]
    chain: Chain
    task: ScoringTask | None = None
    tokens_scored: int = 0
    tokens_naive: int = 0


class Refiner:
    """The callable that Ray Data runs: a batch of `corpus.ROW_SCHEMA` in, how many rows it had out.

    Terminal records go to `run/rows` while the batch is at work; a call returns when all its rows are
    committed. Rows that are committed already (the batch of a process that died) are not done again.
    """

    def __init__(self, make_scorer: Callable[[], Scorer], policy: Policy, run: Storage, session: str) -> None:
        self._session = _Session(run, session)
        self._session.check()  # before minutes go into loading a model
        self._scorer = make_scorer()
        self._policy = policy
        for name in ("rows", "_journal"):
            (run / name).make_folder()
        self._store = RecordStore(run / "rows")
        self._journal = Journal(run / "_journal", session)
        self._committed_files = self._store.files_by_shard()
        self._committed_ids: dict[str, set[str]] = {}
        self._queue: deque[_Work] = deque()
        self._ready: deque[_Work] = deque()
        self._buffer: dict[str, list[tuple[_Batch, Row]]] = {}
        self._in_flight: dict[str, _Batch] = {}
        self._driver: asyncio.Task[None] | None = None
        self._gate: _Gate | None = None
        self._forward_seconds = 0.0
        self._started = self._last_commit = time.monotonic()
        self._metrics = _Metrics()

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Refine and commit one batch."""
        self._gate = self._gate or _Gate()
        rows = [row for row in table.to_pylist() if row["id"] not in self._committed(row["shard"])]
        # A task that Ray delivers twice while the first is at work waits for it.
        twins = {self._in_flight[row["id"]] for row in rows if row["id"] in self._in_flight}
        rows = [row for row in rows if row["id"] not in self._in_flight]
        suspects = {row["id"]: row for row in rows if self._journal.is_suspect(row["id"])}
        for group in self._journal.groups(list(suspects)):
            async with self._gate.alone():
                await self._refine_noted([suspects[row_id] for row_id in group])
        async with self._gate.shared():
            await self._refine_noted([row for row in rows if row["id"] not in suspects])
        await asyncio.gather(*(twin.committed for twin in twins))
        return pa.table({"num_rows": [table.num_rows], "num_done_before": [table.num_rows - len(rows)]})

    async def _refine_noted(self, rows: list[Row]) -> None:
        if not rows:
            return
        batch = _Batch(len(rows))
        self._in_flight.update((row["id"], batch) for row in rows)
        note = await asyncio.to_thread(self._journal.begin, [row["id"] for row in rows])
        for row in rows:
            if row["reason"] is not None:
                self._finish(batch, row, "quarantined", row["reason"])
            elif self._journal.is_convicted(row["id"]):
                self._finish(batch, row, "quarantined", str(RowError("kills_the_process")))
            else:
                chain = Chain(row["question"], tuple(row["steps"]), row["answer"], row["joiner"])
                self._queue.append(_Work(row, batch, refine(chain, self._policy), chain))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        try:
            await batch.committed
        finally:
            for row in rows:
                del self._in_flight[row["id"]]
        await asyncio.to_thread(self._journal.end, note)

    async def _drive(self) -> None:
        """Score, hand out, commit until nothing is left; a failure fails every batch in flight."""
        try:
            answered: list[tuple[_Work, Scored | RowError]] = []
            # Rows may come in during every await, the commit of the last ones too: leave only when a look
            # without an await between finds nothing to do.
            while self._queue or self._ready or answered or self._buffer:
                if not (self._queue or self._ready or answered):
                    await self._commit()
                    continue
                work = self._fill_pass()
                scoring = asyncio.create_task(asyncio.to_thread(self._score, work)) if work else None
                await asyncio.sleep(0)  # let the pass begin before this thread gets busy
                for item, result in answered:
                    self._hand_out(item, result)
                while scoring and not scoring.done():
                    await asyncio.wait({scoring}, timeout=COMMIT_CHECK_SECONDS)
                    await self._commit_if_due()  # a pass over long chains may take minutes
                answered = scoring.result() if scoring else []
                await self._commit_if_due()
        except BaseException as error:
            for batch in set(self._in_flight.values()):
                if not batch.committed.done():
                    batch.committed.set_exception(error)
            raise

    def _fill_pass(self) -> list[_Work]:
        """The requests of the next pass; starts rows from the queue as long as there is room."""
        work: list[_Work] = []
        room = self._scorer.token_budget
        while room > 0 and (self._ready or self._queue):
            if not self._ready:
                self._begin(self._queue.popleft())
                continue
            item = self._ready.popleft()
            assert item.task is not None
            work.append(item)
            room -= max(1, item.task.num_new_tokens)
        return work

    def _score(self, work: list[_Work]) -> list[tuple[_Work, Scored | RowError]]:
        started = time.perf_counter()
        results = self._scorer.score([item.task for item in work])
        self._forward_seconds += time.perf_counter() - started
        return list(zip(work, results, strict=True))

    def _begin(self, item: _Work) -> None:
        self._prepare(item, next(item.generator))

    def _hand_out(self, item: _Work, result: Scored | RowError) -> None:
        if isinstance(result, RowError):
            self._quarantine(item, result)
            return
        item.tokens_scored += result.tokens_forwarded
        item.tokens_naive += result.tokens_naive
        try:
            request = item.generator.send(result.perplexities)
        except StopIteration as stop:
            self._finish_refined(item, stop.value)
            return
        self._prepare(item, request)

    def _prepare(self, item: _Work, request: Request) -> None:
        assert isinstance(request, ScoreRequest), "the policy asks for no merger"
        try:
            item.task = self._scorer.prepare(request, item.task)
        except RowError as error:
            self._quarantine(item, error)
            return
        self._ready.append(item)

    def _quarantine(self, item: _Work, error: RowError) -> None:
        spent = {"tokens_scored": item.tokens_scored, "tokens_naive": item.tokens_naive}
        self._finish(item.batch, item.row, "quarantined", str(error), **spent)

    def _finish_refined(self, item: _Work, refinement: Refinement) -> None:
        joiner, steps = item.chain.joiner, item.chain.steps
        before = self._scorer.num_tokens(joiner.join(steps))
        edited = bool(refinement.edits)
        self._finish(
            item.batch,
            item.row,
            "refined" if edited else "unchanged",
            None if edited else refinement.stopped,
            refined_steps=list(refinement.steps),
            edits=[asdict(edit) for edit in refinement.edits],
            ppl_original=refinement.ppl_original,
            ppl_refined=refinement.ppl_refined,
            tokens_original=before,
            tokens_refined=self._scorer.num_tokens(joiner.join(refinement.steps)) if edited else before,
            tokens_scored=item.tokens_scored,
            tokens_naive=item.tokens_naive,
        )

    def _finish(self, batch: _Batch, row: Row, status: str, reason: str | None, **values: Any) -> None:
        given = {name: row[name] for name in ("id", "question", "answer", "steps", "joiner", "source")}
        record = given | {"status": status, "reason": reason} | values
        self._buffer.setdefault(row["shard"], []).append((batch, record))

    def _is_commit_due(self) -> bool:
        num_rows = sum(len(records) for records in self._buffer.values())
        if num_rows == 0:
            return False
        # Often at first, so that a short run shows progress; rarely later, so that files stay few. With an
        # empty queue rows that wait for their commit hold back the next batch.
        now = time.monotonic()
        wait = min(COMMIT_SECONDS_AT_MOST, 2.0 + (now - self._started) / 20) if self._queue else 2.0
        return num_rows >= COMMIT_ROWS or now - self._last_commit >= wait

    async def _commit_if_due(self) -> None:
        if self._is_commit_due():
            await self._commit()

    async def _commit(self) -> None:
        await asyncio.to_thread(self._session.check)
        buffer, self._buffer = self._buffer, {}
        for shard, finished in buffer.items():
            for first in range(0, len(finished), COMMIT_ROWS):
                part = finished[first : first + COMMIT_ROWS]
                seconds, self._forward_seconds = self._forward_seconds, 0.0
                records = [record for _, record in part]
                file = await asyncio.to_thread(self._store.commit, shard, records, seconds)
                self._committed_files.setdefault(shard, []).append(file)
                self._committed_ids.pop(shard, None)
                self._metrics.count(records, seconds)
                for batch, _ in part:
                    batch.count_committed(1)
        self._last_commit = time.monotonic()

    def _committed(self, shard: str) -> set[str]:
        """Ids that are committed: by processes before this one, and by itself."""
        if shard not in self._committed_ids:
            self._committed_ids = {shard: read_ids(self._committed_files.get(shard, []))}
        return self._committed_ids[shard]


class _Session:
    """The file that says which session may write to a run: the one that opened it last."""

    def __init__(self, run: Storage, name: str) -> None:
        self._file = run / SESSION_FILE
        self._name = name

    def check(self) -> None:
        """Raise ValueError when the run is not to be seen from here, or another session has taken it over."""
        try:
            owner = self._file.read_bytes().decode()
        except FileNotFoundError:
            raise ValueError(
                f"output {self._file.parent.path} cannot be seen by an actor on {socket.gethostname()}: "
                "choose a path that all nodes share, or a URI"
            ) from None
        if owner != self._name:
            raise ValueError(f"another session has taken over {self._file.parent.path}: let only one of them run")


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

    def __init__(self) -> None:
        self._rows = Counter("sluice_rows", "Rows with a terminal record.", ("status",))
        self._tokens_scored = Counter("sluice_tokens_scored", "Tokens that went through a model to score rows.")
        self._tokens_saved = Counter("sluice_tokens_saved", "Reasoning tokens that refinement removed.")
        self._forward_seconds = Counter("sluice_forward_seconds", "Seconds that models spent on forward passes.")

    def count(self, records: Iterable[Row], forward_seconds: float) -> None:
        totals = Totals(forward_seconds=forward_seconds)
        for record in records:
            totals.add_record(record)
        for status, number in totals.rows.items():
            self._rows.inc(number, {"status": status})
        # A counter refuses to be increased by nothing.
        for counter, value in (
            (self._tokens_scored, totals.tokens_scored),
            (self._tokens_saved, totals.tokens_original - totals.tokens_refined),
            (self._forward_seconds, forward_seconds),
        ):
            if value > 0:
                counter.inc(value)
