"""The records of a run: terminal records for each input row, committed as whole Parquet files.

While a run is at work, a file of records lies in the folder of the shard that its rows come from, `_rows/SHARD/`. A
record is committed once its file is there. Whoever is given a row first reads the ids in the folder of its shard, so a
row is recorded once, whatever worker it was given to before. The files end up in `rows/` (`actors.runs.merging`).

Ray Data's own checkpointing commits a block when all its rows are done, however long that takes, and requires a block
to hold the same rows on every retry. Here the clock decides when finished rows are committed (`actors.runs.ledger`).
"""

import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from actors.runs.commits import READERS, Commit, CommitReader
from actors.runs.folder import RunFolder
from actors.runs.storage import Storage
from actors.runs.totals import Totals

SUMMARY_KEY: Final = b"sluice"
COMMITTED_FILE: Final = re.compile(r"(\d{7}-\d{7,})/[0-9a-f]{12}\.parquet$")


def new_file(shard: str) -> str:
    """A name for a new file of records of a shard, below the folder of committed files."""
    return f"{shard}/{uuid.uuid4().hex[:12]}.parquet"


def write_records(folder: Storage, commit: Commit, records: pa.Table) -> None:
    """Write a file of records, with its entry of the log in its footer too."""
    sink = pa.BufferOutputStream()
    pq.write_table(records.replace_schema_metadata({SUMMARY_KEY: commit.line().encode()}), sink, compression="zstd")
    (folder / commit.file).write_bytes(sink.getvalue())


class RecordStore:
    """The records of one run. Workers may write meanwhile."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._log = CommitReader(run.commit_logs)

    @property
    def is_whole(self) -> bool:
        """Whether all records lie in `rows`."""
        return self._run.rows_done.exists()

    def files(self) -> list[Storage]:
        """The files of records, in the order of the input."""
        if self.is_whole:
            return [self._run.rows / info.base_name for info in self._run.rows.files() if _is_part(info.base_name)]
        return [self._run.committed / name for name in self.committed_names()]

    def committed_names(self) -> list[str]:
        """The committed files by shard, as names below the folder of committed files."""
        paths = (info.path for info in self._run.committed.files(recursive=True))
        return sorted(match[0] for path in paths if (match := COMMITTED_FILE.search(path)))

    def recover(self, session: str) -> list[Commit]:
        """What earlier sessions committed, checked against the files that are there. Only while no worker writes.

        Leaves one log with all entries, and deletes the unfinished files of killed workers.
        """
        paths = [info.path for info in self._run.committed.files(recursive=True)]
        names = {match[0] for path in paths if (match := COMMITTED_FILE.search(path))}
        logged = {commit.file: commit for commit in self._log.commits()}
        with ThreadPoolExecutor(READERS) as pool:
            unlogged = list(pool.map(self._from_footer, sorted(names - logged.keys())))
            leftovers = [Storage(self._run.root.filesystem, path) for path in paths if path.endswith(".tmp")]
            list(pool.map(lambda file: file.delete_file(), leftovers))
        found = [*(logged[name] for name in sorted(names & logged.keys())), *unlogged]
        self._log.replace(found, session)
        return found

    def commits(self) -> list[Commit]:
        """The commits so far, oldest first. While workers write, the newest entry of each may precede its file."""
        if self._run.commit_history.exists():
            return [Commit.from_line(line) for line in self._run.commit_history.read_bytes().splitlines()]
        return self._log.commits()

    def num_workers(self, session: str) -> int:
        """Worker processes that a session has started so far, as of the last call of `totals`."""
        return self._log.num_workers(session)

    def totals(self) -> Totals:
        """Sums over all records so far."""
        if self.is_whole:
            return Totals.from_dict(json.loads(self._run.rows_done.read_bytes()))
        return self._log.totals()

    def batches(self, columns: Iterable[str] | None = None, batch_size: int = 1000) -> Iterator[pa.RecordBatch]:
        """All records in the order of the input's shards, a batch at a time."""
        for file in self.files():
            with file.filesystem.open_input_file(file.path) as source:
                yield from pq.ParquetFile(source).iter_batches(
                    batch_size=batch_size, columns=list(columns) if columns else None
                )

    def _from_footer(self, name: str) -> Commit:
        file = self._run.committed / name
        return Commit.from_line(pq.read_schema(pa.BufferReader(file.read_bytes())).metadata[SUMMARY_KEY])


class ShardIds:
    """The ids of the rows that are committed, shard by shard. Remembers the shards that were asked for last."""

    REMEMBERED: Final = 16

    def __init__(self, folder: Storage, column: str) -> None:
        self._folder = folder
        self._column = column
        self._known: dict[str, dict[str, frozenset[str]]] = {}  # shard -> file -> ids

    def of(self, shard: str) -> set[str]:
        """The committed ids of a shard, whoever committed them."""
        known = self._known.pop(shard, {})
        infos = [info for info in (self._folder / shard).files() if info.path.endswith(".parquet")]
        self._known[shard] = {
            name: known.get(name) or self._read(self._folder / shard / name) for name in (i.base_name for i in infos)
        }
        while len(self._known) > self.REMEMBERED:
            del self._known[next(iter(self._known))]
        return set().union(*self._known[shard].values())

    def _read(self, file: Storage) -> frozenset[str]:
        table = pq.read_table(pa.BufferReader(file.read_bytes()), columns=[self._column])
        return frozenset(table[self._column].to_pylist())


def commit_of(shard: str, totals: Totals) -> Commit:
    """The entry of a file that is about to be written."""
    return Commit(new_file(shard), time.time(), totals)


def _is_part(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith((".", "_"))
