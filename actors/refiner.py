"""Refines rows in a Ray actor: many refinements at once, one scorer kept busy.

Every row is a generator (`algorithms.refinement.refine`) that waits for perplexities. The waiting requests of all
batches in flight are packed into one forward pass under the scorer's token budget. While a pass runs, the answers of
the pass before are handed out and the next requests prepared. New rows start only when those at work cannot fill a
pass, so that rows finish, and are committed, early.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from actors.runs.folder import RunFolder
from actors.runs.ledger import Ledger, Row
from actors.runs.record_kinds import REFINEMENT
from actors.runs.session import check_session
from actors.scoring.protocol import Scored, Scorer, ScoringTask
from algorithms.chains import Chain
from algorithms.refinement import Policy, Refinement, Reply, Request, ScoreRequest, refine
from algorithms.row_errors import RowError


@dataclass(eq=False, slots=True)
class _Work:
    """A row in progress. `task` is its latest request, None before the first."""

    row: Row
    generator: Generator[Request, Reply, Refinement]
    chain: Chain
    task: ScoringTask | None = None
    tokens_scored: int = 0
    tokens_naive: int = 0


class Refiner:
    """The worker of `jobs.refine`: a batch of chains in, the number of rows out.

    Terminal records go to the run's `rows` while the batch is at work. A call returns when all its rows are committed.
    Rows that are committed already (the batch of a process that died) are not done again.
    """

    def __init__(self, make_scorer: Callable[[], Scorer], policy: Policy, run: RunFolder, session: str) -> None:
        check_session(run, session)  # before minutes go into loading a model
        self._scorer = make_scorer()
        self._policy = policy
        self._ledger = Ledger(run, session, REFINEMENT)
        self._queue: deque[_Work] = deque()
        self._ready: deque[_Work] = deque()
        self._driver: asyncio.Task[None] | None = None

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Refine and commit one batch."""
        return await self._ledger.process_together(table, self._enqueue)

    def _enqueue(self, rows: list[Row]) -> None:
        for row in rows:
            steps, separators = tuple(row["steps"]), tuple(row["separators"])
            chain = Chain(row["question"], steps, row["answer"], row["joiner"], separators)
            self._queue.append(_Work(row, refine(chain, self._policy), chain))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())

    async def _drive(self) -> None:
        """Score requests and hand out answers until none is left. A failure fails every batch in flight."""
        try:
            answered: list[tuple[_Work, Scored | RowError]] = []
            while self._queue or self._ready or answered:
                work = self._fill_pass()
                scoring = asyncio.create_task(asyncio.to_thread(self._score, work)) if work else None
                await asyncio.sleep(0)  # let the pass start before this thread is busy
                for item, result in answered:
                    self._hand_out(item, result)
                answered = await scoring if scoring else []
        except BaseException as error:
            self._queue.clear()
            self._ready.clear()
            await self._ledger.fail(error)
            raise

    def _fill_pass(self) -> list[_Work]:
        """The requests of the next pass. Starts rows from the queue while there is room."""
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
        self._ledger.spend(forward_seconds=time.perf_counter() - started)
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
        assert isinstance(request, ScoreRequest), "no policy asks for a merger"
        try:
            item.task = self._scorer.prepare(request, item.task)
        except RowError as error:
            self._quarantine(item, error)
            return
        self._ready.append(item)

    def _quarantine(self, item: _Work, error: RowError) -> None:
        spent = {"tokens_scored": item.tokens_scored, "tokens_naive": item.tokens_naive}
        self._ledger.quarantine(item.row, error, **spent)

    def _finish_refined(self, item: _Work, refinement: Refinement) -> None:
        chain = item.chain
        refined = replace(chain, steps=refinement.steps, separators=refinement.separators)
        before = self._scorer.num_tokens(chain.text)
        edited = bool(refinement.edits)
        record = {
            "status": "refined" if edited else "unchanged",
            "reason": None if edited else refinement.stopped,
            "refined_steps": list(refinement.steps),
            "refined_separators": list(refinement.separators),
            "edits": [asdict(edit) for edit in refinement.edits],
            "ppl_original": refinement.ppl_original,
            "ppl_refined": refinement.ppl_refined,
            "tokens_original": before,
            "tokens_refined": self._scorer.num_tokens(refined.text) if edited else before,
            "tokens_scored": item.tokens_scored,
            "tokens_naive": item.tokens_naive,
        }
        self._ledger.finish(item.row, record)
