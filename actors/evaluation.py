"""What `jobs.evaluate` runs in workers: graded samples -> compact tables, and answer classes of several runs joined."""

import asyncio
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from actors.errors import CallCrashed, CallTimedOut
from actors.processes import grading
from actors.processes.pool import KillablePool
from actors.runs.corpus import id_hash
from algorithms.splits import plain_question

ROWS_PER_BLOCK: Final = 5000
SECONDS_PER_PROBLEM: Final = 10.0

FACTS: Final = (
    ("problem", pa.uint64()),  # hash of the question
    ("origin", pa.uint64()),  # hash of the run and of the problem's id in it: whose classes these are
    ("index", pa.int32()),
    ("answer_class", pa.int32()),  # null for a sample without a vote
    ("answer", pa.string()),  # of the first sample of a class in a block; null for the others
    ("correct", pa.bool_()),
    ("score", pa.float64()),
    ("logprob", pa.float64()),
    ("tokens", pa.int64()),
    ("characters", pa.int64()),
    ("unused", pa.string()),  # the reason; such a row says nothing else
)


def sample_schema(by: Sequence[str]) -> pa.Schema:
    """The schema of compact tables with the groups named in `by`."""
    return pa.schema([*FACTS, *((f"by_{name}", pa.string()) for name in by)])


def read_samples(batch: Mapping[str, Any], split: str | None, by: Sequence[str]) -> Iterator[pa.Table]:
    """The samples of the pickled (corpus, number of the run, part) in `batch["part"]`, of one split or of all."""
    for pickled in batch["part"]:
        corpus, run, part = pickle.loads(pickled)
        for table in corpus.tables(part, ROWS_PER_BLOCK):
            rows = table.to_pylist()
            wanted = [row for row in rows if split is None or row["reason"] is not None or row["split"] == split]
            yield _compact(wanted, run, by)


def _compact(rows: Sequence[Mapping[str, Any]], run: int, by: Sequence[str]) -> pa.Table:
    known: set[tuple[int, int]] = set()
    groups = _Groups(by)
    return pa.Table.from_pylist([_fact(row, run, groups, known) for row in rows], schema=sample_schema(by))


def _fact(row: Mapping[str, Any], run: int, groups: "_Groups", known: set[tuple[int, int]]) -> dict[str, Any]:
    if row["reason"] is not None:
        return {"unused": row["reason"]}
    origin = id_hash(f"{run}\0{row['problem_id']}")
    answer_class = row["answer_class"]
    is_new = answer_class is not None and (origin, answer_class) not in known
    if is_new:
        known.add((origin, answer_class))
    return {
        "problem": id_hash(plain_question(row["question"])),
        "origin": origin,
        "index": row["sample_index"],
        "answer_class": answer_class,
        "answer": row["answer"] if is_new else None,
        "correct": row["correct"],
        "score": row["score"],
        "logprob": row["mean_logprob"],
        "tokens": row["num_tokens"],
        "characters": len(row["rationale"] or ""),
        **groups.of(row["source"]),
    }


class _Groups:
    """The groups of a problem, from the JSON of its other columns. Samples of one problem follow each other."""

    def __init__(self, by: Sequence[str]) -> None:
        self._by = tuple(by)
        self._source: str | None = None
        self._found: dict[str, str] = {}

    def of(self, source: str | None) -> dict[str, str]:
        """The values of the groups, "" where a problem has none. A value may lie one object deeper, as in `doc`."""
        if not self._by or source is None:
            return {f"by_{name}": "" for name in self._by}
        if source != self._source:
            columns = json.loads(source)
            places = [columns, *(value for value in columns.values() if isinstance(value, dict))]
            self._source = source
            self._found = {
                f"by_{name}": next((str(place[name]) for place in places if place.get(name) is not None), "")
                for name in self._by
            }
        return self._found


def join_classes(problems: Sequence[Sequence[Sequence[str]]]) -> list[list[list[int]]]:
    """The classes of the sources of each problem as one numbering: one answer of each class in, its number out.

    A process compares them that is killed if it takes too long. Then answers of the same text share a class.
    """
    pool = KillablePool(1, grading.PRELOAD, grading.prepare)

    async def joined(sources: Sequence[Sequence[str]]) -> list[list[int]]:
        try:
            return await pool.call(grading.join_classes, sources, limit_seconds=SECONDS_PER_PROBLEM)
        except (CallTimedOut, CallCrashed, MemoryError):
            return grading.joined_texts(sources)

    async def all_of_them() -> list[list[list[int]]]:
        return [await joined(sources) for sources in problems]

    try:
        return asyncio.run(all_of_them())
    finally:
        pool.close()
