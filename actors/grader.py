"""Grades sampled solutions in a Ray actor, in processes of its own that it kills when they take too long.

A problem's samples are graded by one call. When that exceeds the limit, dies or runs out of memory, each
sample is graded by a call of its own: the one at fault costs its limit and gets no grade, the others do.
"""

import asyncio
import multiprocessing
from concurrent.futures import Future
from typing import Any, Final

import pebble
import pyarrow as pa
from pebble import ProcessExpired, ProcessPool

from actors import grading_process
from actors.grading_process import Sample
from actors.ledger import Ledger, Row
from actors.record_kinds import GRADING
from actors.storage import Storage
from algorithms.splits import split_of

CARRIED: Final = ("origin", "given_correct", "num_tokens", "finish_reason", "mean_logprob")
TASKS_PER_PROCESS: Final = 1000  # SymPy's caches grow
KILL_AFTER_SECONDS: Final = 0.2  # SymPy in C does not hear SIGTERM, and the pool waits for it
STATUS: Final = {True: "right", False: "wrong", None: "unknown"}


class Grader:
    """The callable that Ray Data runs: a batch of problems in, how many rows it had out.

    `fractions` and `seed` are those of `algorithms.splits`. Records go to `run/rows`.
    """

    def __init__(
        self,
        run: Storage,
        session: str,
        num_processes: int,
        limit_seconds: float,
        fractions: tuple[float, float, float],
        seed: int,
    ) -> None:
        self._ledger = Ledger(run, session, GRADING)
        self._limit_seconds = limit_seconds
        self._fractions = fractions
        self._seed = seed
        # A fork of this process would carry Ray's threads in an unknown state. The server imports once, and a
        # process that was killed has a successor within milliseconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["actors.grading_process", "algorithms.answers.equivalence", "math_verify"])
        pebble.CONSTS.term_timeout = KILL_AFTER_SECONDS
        self._pool = ProcessPool(
            max_workers=num_processes,
            max_tasks=TASKS_PER_PROCESS,
            context=context,
            initializer=grading_process.prepare,
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Grade and commit one batch."""
        return await self._ledger.process(table, self._begin)

    def _begin(self, rows: list[Row]) -> None:
        for row in rows:
            task = asyncio.create_task(self._grade(row))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _grade(self, row: Row) -> None:
        try:
            texts = [
                (index, sample["text"], row["last_number"] and sample["finish_reason"] != "length")
                for index, sample in enumerate(row["samples"])
                if sample["text"] is not None
            ]
            grades = await self._grade_samples(row, texts)
            records = [self._record(row, index, grades.get(index)) for index in range(len(row["samples"]))]
            self._ledger.finish(row, *records)
        except BaseException as error:
            await self._ledger.fail(error)
            raise

    async def _grade_samples(self, row: Row, samples: list[Sample]) -> dict[int, dict[str, Any]]:
        if not samples:
            return {}
        arguments = (row["question"], row["answer"], samples, self._limit_seconds)
        future: Future[list[tuple[int, dict[str, Any]]]] = self._pool.schedule(
            grading_process.grade_samples, args=arguments, timeout=self._limit_seconds
        )
        try:
            grades = await asyncio.wrap_future(future)
            return dict(grades)
        except TimeoutError:
            fault = f"timeout: {self._limit_seconds:g} s"
        except MemoryError:
            fault = "out_of_memory"
        except ProcessExpired as death:
            fault = f"crashed: exit code {death.exitcode}"
        if len(samples) == 1:
            return {samples[0][0]: {"reason": fault}}
        alone = [await self._grade_samples(row, [sample]) for sample in samples]
        return {index: grade for each in alone for index, grade in each.items()}

    def _record(self, row: Row, index: int, grade: dict[str, Any] | None) -> Row:
        sample = row["samples"][index]
        grade = grade or {"reason": f"no_text: {sample['fault']}"}
        return {name: sample[name] for name in CARRIED} | {
            "id": f"{row['id']}#{index}",
            "problem_id": row["id"],
            "sample_index": index,
            "split": split_of(row["question"], self._fractions, self._seed),
            "status": STATUS[grade.get("correct")],
            "gold": row["answer"],
            "rationale": sample["text"],
            "answer": grade.get("answer"),
            "found_by": grade.get("found_by"),
            "correct": grade.get("correct"),
            "reason": grade["reason"],
            "string_correct": grade.get("string_correct"),
        }
