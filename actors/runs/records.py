"""The output of a run: terminal records for each input row, committed as whole Parquet files.

A record is committed once its file has its final name. A file is named after the input shard of its rows. A resumed run
or a restarted worker first reads the committed files of a shard and skips their rows, so each row is recorded exactly
once. Each file's footer holds the totals of its records, so the files are the only source of progress and totals.

Ray Data's own checkpointing commits a block when all its rows are done, however long that takes, and requires a block
to hold the same rows on every retry. Here the clock decides when finished rows are committed (`actors.runs.ledger`).
"""

import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from actors.runs.record_kinds import RecordKind
from actors.runs.storage import Storage

SUMMARY_KEY: Final = b"sluice"


@dataclass
class Totals:
    """Sums over records. `sums` holds the kind's summed columns and the cost of the work, such as seconds."""

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
        """The inverse of `as_dict`."""
        return cls(values["num_rows"], Counter(values["statuses"]), Counter(values["sums"]))

    @classmethod
    def of(cls, kind: RecordKind, num_rows: int, records: Iterable[dict[str, Any]]) -> "Totals":
        """The totals of the records of `num_rows` input rows."""
        totals = cls(num_rows)
        for record in records:
            totals.statuses[record["status"]] += 1
            for name in kind.summed:
                totals.sums[name] += record.get(name) or 0
        return totals

    def add(self, other: "Totals") -> None:
        """Add the counts of `other`."""
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
        """Write records of one shard as a file, atomically. Returns the file."""
        summary = {**totals.as_dict(), "committed_at": time.time()}
        sealed = schema.with_metadata({SUMMARY_KEY: json.dumps(summary).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(records, schema=sealed), sink, compression="zstd")
        file = self._folder / f"{shard}-{uuid.uuid4().hex[:12]}.parquet"
        file.write_bytes(sink.getvalue())
        return file

    def sweep(self) -> None:
        """Delete the temporary files of killed processes. Call it only when no process writes any more."""
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
        """The commits so far, oldest first. Reads each footer once in the life of this object."""
        for file in self.files():
            if file.name not in self._commits:
                metadata = pq.read_schema(file.path, filesystem=file.filesystem).metadata
                summary = json.loads(metadata[SUMMARY_KEY])
                self._commits[file.name] = Commit(summary["committed_at"], Totals.from_dict(summary))
        return sorted(self._commits.values(), key=lambda commit: commit.committed_at)

    def totals(self) -> Totals:
        """Sums over all commits so far."""
        totals = Totals()
        for commit in self.commits():
            totals.add(commit.totals)
        return totals

    def batches(self, columns: Iterable[str] | None = None, batch_size: int = 1000) -> Iterator[pa.RecordBatch]:
        """All committed records in the order of the input's shards, a batch at a time."""
        for file in self.files():
            with file.filesystem.open_input_file(file.path) as source:
                yield from pq.ParquetFile(source).iter_batches(
                    batch_size=batch_size, columns=list(columns) if columns else None
                )


def read_ids(files: Iterable[Storage], column: str) -> set[str]:
    """The ids of the input rows whose records are in these files."""
    ids: set[str] = set()
    for file in files:
        ids.update(pq.read_table(file.path, columns=[column], filesystem=file.filesystem)[column].to_pylist())
    return ids
