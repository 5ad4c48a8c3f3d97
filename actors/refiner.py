"""Refines rows in a Ray actor: many refinements at once, one scorer kept busy.

Every row is a generator (`algorithms.refinement`) that waits for perplexities, and sometimes for a merge. Its steps are
asyncio tasks: hand it the reply, and prepare the request that it makes next. Prepared requests of all batches in flight
are packed into passes under the scorer's token budget. The scorer's thread has its next pass before it has finished the
one at hand, so it does not wait for this thread. New rows start only when those at work do not fill the next passes, so
that rows finish, and are committed, early. A row that waits for a merge takes no part in this.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import pyarrow as pa

from actors.errors import SluiceError
from actors.merging.build import MakeMerger
from actors.runs.folder import RunFolder
from actors.runs.ledger import Ledger, Row
from actors.runs.record_kinds import REFINEMENT
from actors.runs.session import check_session
from actors.scoring.protocol import Scored, Scorer, ScoringTask
from actors.scoring.scorer_thread import Result, ScorerThread
from algorithms.chains import Chain
from algorithms.refinement.outcomes import Edit, MergeAttempt, Refinement
from algorithms.refinement.policy import Policy
from algorithms.refinement.refine import refine, refine_with_control
from algorithms.refinement.requests import MergeReply, MergeRequest, Reply, Request
from algorithms.row_errors import RowError

PASSES_AHEAD: Final = 2  # prepared beyond the one that is computed; one of them waits in the scorer's thread
SHORT_REQUEST: Final = 64  # tokens
EDIT_FIELDS: Final = tuple(each.name for each in fields(Edit))  # `asdict` copies deeply
MERGE_FIELDS: Final = tuple(each.name for each in fields(MergeAttempt))
LINGER_SECONDS: Final = 0.05  # an idle scorer waits at most this long for a preparation that would fill its pass


def rows_at_once(token_budget: int, num_merging: int = 0) -> int:
    """Rows that a refiner holds at once: more than fill its passes, since few requests are shorter.

    `num_merging` further rows may wait for merges.
    """
    return max(8, token_budget // SHORT_REQUEST) + num_merging


@dataclass(frozen=True)
class RefinerOptions:
    """How rows are refined.

    A share `control` of the rows, chosen by their ids, is also refined at random, for comparison. `num_merging` rows
    may wait for merges at once.
    """

    policy: Policy
    control: float = 0.0
    make_merger: MakeMerger | None = None
    num_merging: int = 0

    def has_control(self, row_id: str) -> bool:
        """Whether a row belongs to the control. The same rows do in every session."""
        digest = hashlib.blake2b(f"control:{row_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "little") < self.control * 2**64


@dataclass(eq=False, slots=True)
class _Work:
    """A row in progress. `task` is its latest request, None before the first."""

    row: Row
    generator: Generator[Request, Reply, Any]
    chain: Chain
    task: ScoringTask | None = None
    tokens_scored: int = 0
    tokens_naive: int = 0
    control: bool = False  # the generator returns its control too


class Refiner:
    """The worker of `jobs.refine`: a batch of chains in, the number of rows out.

    Terminal records go to the run's `rows` while the batch is at work. A call returns when all its rows are committed.
    Rows that are committed already (the batch of a process that died) are not done again.
    """

    def __init__(self, make_scorer: Callable[[], Scorer], how: RefinerOptions, run: RunFolder, session: str) -> None:
        check_session(run, session)  # before minutes go into loading a model
        self._scorer = make_scorer()
        self._merger = how.make_merger(self._scorer, run) if how.make_merger else None
        self._how = how
        capacity = rows_at_once(self._scorer.token_budget, how.num_merging)
        self._ledger = Ledger(run, session, REFINEMENT, capacity)
        self._scoring = ScorerThread(self._scorer, lambda seconds: self._ledger.spend(forward_seconds=seconds))
        self._queue: deque[Row] = deque()  # not begun
        self._preparing: dict[_Work, bool] = {}  # whether an idle scorer should wait for it
        self._ready: deque[_Work] = deque()
        self._ready_tokens = 0  # the cost of all that is ready
        self._passes: set[asyncio.Task[None] | None] = set()  # in the scorer's thread
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Refine and commit one batch."""
        return await self._ledger.process_together(table, self._enqueue)

    def _enqueue(self, rows: list[Row]) -> None:
        self._queue.extend(rows)
        self._advance()

    def _advance(self) -> None:
        """Begin rows while there is room, and hand the passes that are due to the scorer's thread."""
        while self._queue and self._has_room():
            self._begin(self._queue.popleft())
        while self._is_pass_due():
            self._passes.add(self._start(self._score(self._take_pass())))

    def _has_room(self) -> bool:
        """Whether a further row may start: the scorer is not sure of its next passes, and somebody can prepare."""
        tokens = len(self._passes) * self._scorer.token_budget + self._ready_tokens
        room = (1 + PASSES_AHEAD) * self._scorer.token_budget
        return tokens < room and len(self._preparing) < 2 * self._scorer.num_preparing

    def _is_pass_due(self) -> bool:
        """Whether to score what is ready: a full pass ahead of time, and any once nothing would fill it soon."""
        if not self._ready or len(self._passes) > 1:
            return False
        if self._ready_tokens >= self._scorer.token_budget:
            return True
        return not self._passes and not any(self._preparing.values())

    def _take_pass(self) -> list[_Work]:
        work: list[_Work] = []
        room = self._scorer.token_budget
        while room > 0 and self._ready:
            item = self._ready.popleft()
            work.append(item)
            room -= _cost(item)
        self._ready_tokens -= self._scorer.token_budget - room
        return work

    async def _score(self, work: list[_Work]) -> None:
        """Score one pass, and take each of its rows on."""
        try:
            results = await self._scoring.score([item.task for item in work if item.task is not None])
        except Exception as error:  # noqa: BLE001  the ledger hands it to every caller
            await self._fail(error)
            return
        finally:
            self._passes.discard(asyncio.current_task())
        self._advance()  # first of all, the scorer's thread gets its next pass
        for item, result in zip(work, results, strict=True):
            self._hand_out(item, result)
        self._advance()

    def _begin(self, row: Row) -> None:
        steps, separators = tuple(row["steps"]), tuple(row["separators"])
        chain = Chain(row["question"], steps, row["answer"], row["joiner"], separators)
        control = self._how.has_control(row["id"])
        generator = (refine_with_control if control else refine)(chain, self._how.policy)
        self._take_on(_Work(row, generator, chain, control=control), None)

    def _hand_out(self, item: _Work, result: Result) -> None:
        match result:
            case Scored():
                item.tokens_scored += result.tokens_forwarded
                item.tokens_naive += result.tokens_naive
                self._take_on(item, result.perplexities)
            case RowError():
                self._quarantine(item, result)
            case _:
                self._ledger.raised(item.row, result)

    def _take_on(self, item: _Work, reply: Reply) -> None:
        """Let a row prepare its next request. No other row waits long for it."""
        self._preparing[item] = True
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._stop_waiting_for, item)
        self._start(self._step(item, reply))

    def _stop_waiting_for(self, item: _Work) -> None:
        if item in self._preparing:
            self._preparing[item] = False
            self._advance()

    async def _step(self, item: _Work, reply: Reply) -> None:
        """Bring a row to its next request, prepared, or to its end."""
        try:
            try:
                request = item.generator.send(reply)
                while isinstance(request, MergeRequest):
                    request = item.generator.send(await self._merge(item, request))
            except StopIteration as stop:
                del self._preparing[item]
                await self._finish_refined(item, *(stop.value if item.control else (stop.value, None)))
                return
            item.task = await self._scorer.prepare(request, item.task)
            self._ready.append(item)
            self._ready_tokens += _cost(item)
        except RowError as error:
            self._quarantine(item, error)
        except SluiceError as error:
            await self._fail(error)
        except Exception as error:  # noqa: BLE001  only this row's own data was at work
            self._ledger.raised(item.row, error)
        finally:
            self._preparing.pop(item, None)
            self._advance()

    async def _merge(self, item: _Work, request: MergeRequest) -> MergeReply:
        """Ask the merger. Meanwhile other rows are scored, and new ones start in this one's place."""
        assert self._merger is not None, "only a policy with a merger asks for merges"
        del self._preparing[item]
        self._advance()
        reply = await self._merger.merge(request)
        self._preparing[item] = True
        return reply

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _fail(self, error: BaseException) -> None:
        """End every batch in flight, and forget its rows."""
        for waiting in (self._queue, self._ready, self._preparing, self._passes):
            waiting.clear()
        self._ready_tokens = 0
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        await self._ledger.fail(error)

    def _quarantine(self, item: _Work, error: RowError) -> None:
        spent = {"tokens_scored": item.tokens_scored, "tokens_naive": item.tokens_naive}
        self._ledger.quarantine(item.row, error, **spent)

    async def _finish_refined(self, item: _Work, refinement: Refinement, control: Refinement | None) -> None:
        chain = item.chain
        edited = bool(refinement.edits)
        outcomes = ([refinement] if edited else []) + ([control] if control else [])
        texts = [replace(chain, steps=each.steps, separators=each.separators).text for each in outcomes]
        num_tokens = await self._scorer.count_tokens([chain.text, *texts])
        record = {
            "status": "refined" if edited else "unchanged",
            "reason": None if edited else refinement.stopped,
            "stopped": refinement.stopped,
            "refined_steps": list(refinement.steps),
            "refined_separators": list(refinement.separators),
            "edits": [{name: getattr(edit, name) for name in EDIT_FIELDS} for edit in refinement.edits],
            "merges": [{name: getattr(merge, name) for name in MERGE_FIELDS} for merge in refinement.merges],
            "ppl_original": refinement.ppl_original,
            "ppl_refined": refinement.ppl_refined,
            "tokens_original": num_tokens[0],
            "tokens_refined": num_tokens[1 if edited else 0],
            "tokens_scored": item.tokens_scored,
            "tokens_naive": item.tokens_naive,
        }
        if control is not None:
            record |= {
                "control_steps": list(control.steps),
                "control_ppl": control.ppl_refined,
                "control_tokens": num_tokens[-1],
            }
        self._ledger.finish(item.row, record)


def _cost(item: _Work) -> int:
    """New tokens of a prepared request; one that has none still takes a place."""
    assert item.task is not None, "only prepared requests wait for a pass"
    return max(1, item.task.num_new_tokens)
