"""The output of a run: terminal records for each input row, committed as whole Parquet files.

A record is committed once the file that holds it has its final name. Files are named after the shard of the
input that their rows come from, so whoever redoes rows (a resumed run, a restarted actor) first looks there
and leaves out what is done: each row is recorded exactly once. Each file's footer sums up its records, which
makes the files the only source of progress and totals.

Ray Data's own checkpointing commits a block when all its rows are done, however long that takes, and
retries demand that a block always holds the same rows. Here finished rows are committed by the clock.
"""

import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from actors.storage import Storage

SUMMARY_KEY: Final = b"sluice"


@dataclass(frozen=True)
class RecordKind:
    """What the records of a job look like.

    `summed` are the number columns that totals add up, `row_column` holds the id of the input row. All
    records of one row are committed together. A column that a record lacks is the row's own of that name, or of
    the one in `taken_from`.
    """

    schema: pa.Schema
    statuses: tuple[str, ...]
    summed: tuple[str, ...]
    row_column: str = "id"
    taken_from: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Totals:
    """Sums over records. `sums` has the kind's summed columns, and what the work cost, such as seconds."""

    num_rows: int = 0  # input rows
    statuses: Counter[str] = field(default_factory=Counter)  # records by status
    sums: Counter[str] = field(default_factory=Counter)

    @property
    def num_records(self) -> int:
        """Records of any status."""
        return sum(self.statuses.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"num_rows": self.num_rows, "statuses": dict(self.statuses), "sums": dict(self.sums)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Totals":
        """The opposite of `as_dict`."""
        return cls(values["num_rows"], Counter(values["statuses"]), Counter(values["sums"]))

    @classmethod
    def of(cls, kind: RecordKind, num_rows: int, records: Iterable[dict[str, Any]]) -> "Totals":
        """The totals of some records, which stand for `num_rows` input rows."""
        totals = cls(num_rows)
        for record in records:
            totals.statuses[record["status"]] += 1
            for name in kind.summed:
                totals.sums[name] += record.get(name) or 0
        return totals

    def add(self, other: "Totals") -> None:
        """Count all that `other` counts."""
        self.num_rows += other.num_rows
        self.statuses.update(other.statuses)
        self.sums.update(other.sums)


@dataclass(frozen=True)
class Commit:
    """One committed file: when it was written, and the totals of its records."""

    committed_at: float
    totals: Totals


class RecordStore:
    """The record files of one run, under `folder`. One process may write while others read."""

    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        self._commits: dict[str, Commit] = {}

    def commit(self, shard: str, records: list[dict[str, Any]], schema: pa.Schema, totals: Totals) -> Storage:
        """Write records, all of one shard, as a file that is there whole or not at all; the file."""
        summary = {**totals.as_dict(), "committed_at": time.time()}
        sealed = schema.with_metadata({SUMMARY_KEY: json.dumps(summary).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(records, schema=sealed), sink, compression="zstd")
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
                self._commits[file.name] = Commit(summary["committed_at"], Totals.from_dict(summary))
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


def read_ids(files: Iterable[Storage], column: str) -> set[str]:
    """The ids of the input rows that some files record."""
    ids: set[str] = set()
    for file in files:
        ids.update(pq.read_table(file.path, columns=[column], filesystem=file.filesystem)[column].to_pylist())
    return ids
