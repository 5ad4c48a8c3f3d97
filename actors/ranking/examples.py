"""Graded samples -> a ranker's examples: the tasks of the first stage of training.

There is one row for each sample. A sample that teaches nothing keeps its row, with the reason. What a kind of ranker
knows of a solution stands in columns of its own (`Describe`).
"""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from actors.runs.corpus import id_hash
from algorithms.ranking.solutions import Solution
from algorithms.splits import SPLITS, plain_question

ROWS_PER_BLOCK: Final = 2000
EXAMPLE_FIELDS: Final = (
    ("place", pa.int64()),  # in the input: part and row
    ("split", pa.string()),
    ("problem", pa.uint64()),  # hash of the question
    ("right", pa.bool_()),
    ("unused", pa.string()),  # the reason; such a row has nothing in the columns of its kind
)
Describe = Callable[[Sequence[Solution]], Sequence[dict[str, Any]]]


def read_examples(batch: Mapping[str, Any], describe: Describe, schema: pa.Schema) -> Iterator[pa.Table]:
    """The examples of the pickled (corpus, number of the part, part) in `batch["part"]`, as tables of `schema`.

    `describe` makes the columns of the ranker's kind.
    """
    for pickled in batch["part"]:
        corpus, number, part = pickle.loads(pickled)
        for first, table in enumerate(corpus.tables(part, ROWS_PER_BLOCK)):
            rows = _examples(table.to_pylist(), (number << 32) + first * ROWS_PER_BLOCK, describe)
            yield pa.Table.from_pylist(rows, schema=schema)


def _examples(rows: list[dict[str, Any]], place: int, describe: Describe) -> list[dict[str, Any]]:
    unused = [_unused(row) for row in rows]
    used = [row for row, reason in zip(rows, unused, strict=True) if reason is None]
    described = iter(describe([Solution(row["question"], row["rationale"], row["answer"]) for row in used]))
    return [
        {
            "place": place + offset,
            "split": row["split"] if reason is None else None,
            "problem": id_hash(plain_question(row["question"] or "")),
            "right": row["correct"],
            "unused": reason,
            **(next(described) if reason is None else {}),
        }
        for offset, (row, reason) in enumerate(zip(rows, unused, strict=True))
    ]


def _unused(row: dict[str, Any]) -> str | None:
    """Why a graded sample teaches nothing, None if it does."""
    if row["reason"] is not None:
        return str(row["reason"]).split(":")[0]
    if row["correct"] is None:
        return "unknown grade"
    if row["rationale"] is None:
        return "no text"
    return None if row["split"] in SPLITS else "no split"
