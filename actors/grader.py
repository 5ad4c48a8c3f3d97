"""Grades sampled solutions in a Ray actor, in processes that it kills when they take too long.

One call grades all samples of a problem. If that call exceeds its limit, dies or runs out of memory, each sample gets a
call of its own. The sample at fault costs its limit and gets no grade; the others do.
"""

from typing import Any, Final

import pyarrow as pa

from actors.errors import CallCrashed, CallTimedOut
from actors.processes import grading
from actors.processes.grading import Sample
from actors.processes.pool import KillablePool
from actors.runs.folder import RunFolder
from actors.runs.ledger import Ledger, Row
from actors.runs.record_kinds import GRADING
from algorithms.answers.classes import text_classes
from algorithms.problems import SAMPLE_FACTS
from algorithms.splits import split_of

CARRIED: Final = ("origin", "given_correct", *SAMPLE_FACTS)  # from the sample to its record
ROWS_PER_PROCESS: Final = 128
STATUS: Final = {True: "right", False: "wrong", None: "unknown"}


def rows_at_once(num_processes: int) -> int:
    """Rows that a grader holds at once. Most take milliseconds, and a note in the journal covers an eighth of them."""
    return ROWS_PER_PROCESS * num_processes


class Grader:
    """The worker of `jobs.grade`: a batch of problems in, the number of rows out.

    `fractions` and `seed` are those of `algorithms.splits`. Records go to the run's `rows`.
    """

    def __init__(
        self,
        run: RunFolder,
        session: str,
        num_processes: int,
        limit_seconds: float,
        fractions: tuple[float, float, float],
        seed: int,
    ) -> None:
        self._ledger = Ledger(run, session, GRADING, rows_at_once(num_processes))
        self._limit_seconds = limit_seconds
        self._fractions = fractions
        self._seed = seed
        self._pool = KillablePool(num_processes, grading.PRELOAD, grading.prepare)

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Grade and commit one batch."""
        return await self._ledger.process(table, self._grade)

    async def _grade(self, row: Row) -> None:
        texts = [
            (index, sample["text"], row["last_number"] and sample["finish_reason"] != "length")
            for index, sample in enumerate(row["samples"])
            if sample["text"] is not None
        ]
        grades = await self._grade_samples(row, texts)
        classes = await self._classes([grades.get(index, {}).get("answer") for index in range(len(row["samples"]))])
        records = [
            self._record(row, index, grades.get(index)) | {"answer_class": classes[index]}
            for index in range(len(row["samples"]))
        ]
        self._ledger.finish(row, *records)

    async def _grade_samples(self, row: Row, samples: list[Sample]) -> dict[int, dict[str, Any]]:
        if not samples:
            return {}
        arguments = (row["question"], row["answer"], samples)
        try:
            return dict(await self._pool.call(grading.grade_samples, *arguments, limit_seconds=self._limit_seconds))
        except CallTimedOut as error:
            reason = f"timeout: {error}"
        except MemoryError:
            reason = "out_of_memory"
        except CallCrashed as error:
            reason = f"crashed: {error}"
        if len(samples) == 1:
            return {samples[0][0]: {"reason": reason}}
        one_by_one = [await self._grade_samples(row, [sample]) for sample in samples]
        return {index: grade for each in one_by_one for index, grade in each.items()}

    async def _classes(self, answers: list[str | None]) -> list[int | None]:
        """The class of each answer. If comparing them takes too long, answers of the same text share a class."""
        try:
            return await self._pool.call(grading.class_answers, answers, limit_seconds=self._limit_seconds)
        except (CallTimedOut, CallCrashed, MemoryError):
            return text_classes(answers)

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
            **{name: grade.get(name) for name in grading.CLAIMS},
        }
