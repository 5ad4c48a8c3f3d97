"""The output of refinement: one terminal record for each input row, committed as whole Parquet files.

A record is committed once the file that holds it has its final name. Files are named after the shard of the
input that their rows come from, so whoever redoes rows (a resumed run, a restarted actor) first looks there
and leaves out what is done: each id appears exactly once. Each file's footer sums up its rows, which makes
the files the only source of progress and totals.

Ray Data's own checkpointing commits a block when all its rows are done, however long that takes, and
retries demand that a block always holds the same rows. Here finished rows are committed by the clock.
"""

import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from actors.storage import Storage

EDIT_TYPE: Final = pa.struct(
    [
        ("action", pa.string()),
        ("index", pa.int32()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("ppl_before", pa.float64()),
        ("ppl_after", pa.float64()),
        ("ratio", pa.float64()),
    ]
)
RECORD_SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("steps", pa.list_(pa.string())),
        ("refined_steps", pa.list_(pa.string())),
        ("joiner", pa.string()),
        ("edits", pa.list_(EDIT_TYPE)),
        ("ppl_original", pa.float64()),
        ("ppl_refined", pa.float64()),
        ("tokens_original", pa.int64()),
        ("tokens_refined", pa.int64()),
        ("tokens_scored", pa.int64()),
        ("tokens_naive", pa.int64()),
        ("source", pa.string()),
    ]
)
STATUSES: Final = ("refined", "unchanged", "quarantined")
SUMMARY_KEY: Final = b"sluice"


@dataclass
class Totals:
    """Sums over records. `forward_seconds` is the time models computed, over all actors."""

    rows: Counter[str] = field(default_factory=Counter)  # by status
    tokens_original: int = 0
    tokens_refined: int = 0
    tokens_scored: int = 0
    tokens_naive: int = 0
    forward_seconds: float = 0.0

    @property
    def num_rows(self) -> int:
        """Rows of any status."""
        return sum(self.rows.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"rows": dict(self.rows)}

    def add_record(self, record: dict[str, Any]) -> None:
        """Count one terminal record."""
        self.rows[record["status"]] += 1
        for name in ("tokens_original", "tokens_refined", "tokens_scored", "tokens_naive"):
            setattr(self, name, getattr(self, name) + (record.get(name) or 0))

    def add(self, other: "Totals") -> None:
        """Count all that `other` counts."""
        self.rows.update(other.rows)
        for part in fields(self):
            if part.name != "rows":
                setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))


@dataclass(frozen=True)
class Commit:
    """One committed file: when it was written, and the totals of its rows."""

    committed_at: float
    totals: Totals


class RecordStore:
    """The record files of one run, under `folder`. One process may write while others read."""

    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        self._commits: dict[str, Commit] = {}

    def commit(self, shard: str, records: list[dict[str, Any]], forward_seconds: float) -> Storage:
        """Write terminal records, all of one shard, as a file that is there whole or not at all; the file."""
        totals = Totals(forward_seconds=forward_seconds)
        for record in records:
            totals.add_record(record)
        summary = {**totals.as_dict(), "committed_at": time.time()}
        schema = RECORD_SCHEMA.with_metadata({SUMMARY_KEY: json.dumps(summary).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(records, schema=schema), sink, compression="zstd")
        file = self._folder / f"{shard}-{uuid.uuid4().hex[:12]}.parquet"
        file.write_bytes(sink.getvalue())
        return file

    def sweep(self) -> None:
        """Delete what killed processes left half written. Only once no process writes any more."""
        for info in self._folder.files():
            if info.path.endswith(".tmp"):
                Storage(self._folder.filesystem, info.path).delete_file()

    def files(self) -> list[Storage]:
        """The committed files, by shard."""
        return [
            Storage(self._folder.filesystem, info.path)
            for info in self._folder.files()
            if re.search(r"/\d{7}-\d{7,}-[0-9a-f]{12}\.parquet$", info.path)
        ]

    def files_by_shard(self) -> dict[str, list[Storage]]:
        """The committed files of each shard that has any."""
        found: dict[str, list[Storage]] = {}
        for file in self.files():
            found.setdefault(file.name.rsplit("-", 1)[0], []).append(file)
        return found

    def commits(self) -> list[Commit]:
        """What is committed so far, oldest first. Reads each footer once over the life of this object."""
        for file in self.files():
            if file.name not in self._commits:
                metadata = pq.read_schema(file.path, filesystem=file.filesystem).metadata
                summary = json.loads(metadata[SUMMARY_KEY])
                committed_at = summary.pop("committed_at")
                summary["rows"] = Counter(summary["rows"])
                self._commits[file.name] = Commit(committed_at, Totals(**summary))
        return sorted(self._commits.values(), key=lambda commit: commit.committed_at)

    def totals(self) -> Totals:
        """Sums over all that is committed so far."""
        totals = Totals()
        for commit in self.commits():
            totals.add(commit.totals)
        return totals

    def batches(self, columns: Iterable[str] | None = None, batch_size: int = 1000) -> Iterator[pa.RecordBatch]:
        """All committed records in the order of the input's shards, in bounded memory."""
        for file in self.files():
            with file.filesystem.open_input_file(file.path) as source:
                yield from pq.ParquetFile(source).iter_batches(
                    batch_size=batch_size, columns=list(columns) if columns else None
                )


def read_ids(files: Iterable[Storage]) -> set[str]:
    """The ids of all records in some files."""
    ids: set[str] = set()
    for file in files:
        ids.update(pq.read_table(file.path, columns=["id"], filesystem=file.filesystem)["id"].to_pylist())
    return ids
