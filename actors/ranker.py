"""Scores graded samples in a Ray actor."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa

from actors.errors import SluiceError
from actors.ranking.folder import RankerFolder
from actors.runs.folder import RunFolder
from actors.runs.ledger import Ledger, Row
from actors.runs.record_kinds import RANKING
from algorithms.ranking.solutions import Solution

ROWS_AT_ONCE: Final = 1024  # a note in the journal covers an eighth of them, and is one batch of the ranker


class SampleRanker:
    """The worker of `jobs.rank`: a batch of graded samples in, the number of rows out. Records go to `rows`."""

    def __init__(
        self, run: RunFolder, session: str, ranker: RankerFolder, device: str = "cpu", num_threads: int | None = None
    ) -> None:
        self._ranker = ranker.load(device, num_threads)
        self._ledger = Ledger(run, session, RANKING, ROWS_AT_ONCE)
        self._thread = ThreadPoolExecutor(1)  # a model scores one batch at a time
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Score and commit one batch."""
        return await self._ledger.process_together(table, self._begin)

    def _begin(self, rows: list[Row]) -> None:
        task = asyncio.create_task(self._guarded(rows))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, rows: list[Row]) -> None:
        try:
            await self._score(rows)
        except Exception as error:  # noqa: BLE001  the ledger hands it to every caller
            await self._ledger.fail(error)

    async def _score(self, rows: list[Row]) -> None:
        """Score some rows together. If that raises, each alone: the others must not suffer for one."""
        with_text = [row for row in rows if row["rationale"] is not None]
        solutions = [Solution(row["question"], row["rationale"], row["answer"]) for row in with_text]
        try:
            scores = await asyncio.get_running_loop().run_in_executor(self._thread, self._ranker.score, solutions)
        except SluiceError:
            raise
        except Exception as error:  # noqa: BLE001  whatever one of the texts makes the ranker raise
            if len(rows) == 1:
                self._ledger.raised(rows[0], error)
                return
            for row in rows:
                await self._score([row])
            return
        by_id = {row["id"]: score for row, score in zip(with_text, scores, strict=True)}
        for row in rows:
            self._ledger.finish(row, {"score": by_id.get(row["id"])})
