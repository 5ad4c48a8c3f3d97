"""The end of a run: its many committed files become few files of 64 to 256 MB in `rows/`, in the order of the input.

A row that was committed twice (by a worker on a node that was cut off, or between a check and a commit) is found here,
since both records are in the folder of one shard: the first stays. The files of a group of shards are merged by one
task, and `rows/_whole.json` is written when all of them are there. Until then nothing is deleted, so a merge that dies
is done again.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.runs.commits import CommitReader
from actors.runs.folder import RunFolder
from actors.runs.record_kinds import RecordKind
from actors.runs.retries import patiently
from actors.runs.storage import Storage
from actors.runs.totals import Totals

TARGET_BYTES: Final = 128 << 20  # of committed files in one merged file, which compresses better
ROW_GROUP_BYTES: Final = 32 << 20


@dataclass(frozen=True)
class MergeTask:
    """Committed files that become the file `part`, by shard: names below the folder of committed files."""

    run: RunFolder
    kind: RecordKind
    part: str
    files: tuple[str, ...]

    def __call__(self) -> Totals:
        """Write the merged file. Returns the totals of the records that it leaves out."""
        left_out = Totals()
        with (
            (self.run.rows / self.part).writing() as stream,
            pq.ParquetWriter(stream, self.kind.schema, compression="zstd") as writer,
        ):
            waiting = _Waiting()
            for table in self._shards(left_out):
                waiting.add(table)
                if waiting.num_bytes >= ROW_GROUP_BYTES:
                    writer.write_table(waiting.take())
            writer.write_table(waiting.take(self.kind.schema))
        return left_out

    def _shards(self, left_out: Totals) -> Iterator[pa.Table]:
        """The records shard by shard, each row once."""
        for _, names in groupby(self.files, lambda name: name.split("/")[0]):
            recorded: set[str] = set()
            for name in names:
                table = self._read(self.run.committed / name)
                ids = pc.unique(table[self.kind.row_column]).to_pylist()
                again = recorded.intersection(ids)
                if again:
                    is_again = pc.is_in(table[self.kind.row_column], pa.array(sorted(again), pa.string()))
                    left_out.add(Totals.of(self.kind, len(again), table.filter(is_again).to_pylist()))
                    table = table.filter(pc.invert(is_again))
                recorded.update(ids)
                yield table

    def _read(self, file: Storage) -> pa.Table:
        table = pq.read_table(pa.BufferReader(file.read_bytes()))
        return table.select(self.kind.schema.names).replace_schema_metadata(None).cast(self.kind.schema)


@dataclass
class _Waiting:
    """Tables that wait for their row group."""

    tables: list[pa.Table] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, table: pa.Table) -> None:
        self.tables.append(table)
        self.num_bytes += table.nbytes

    def take(self, schema: pa.Schema | None = None) -> pa.Table:
        tables = self.tables if schema is None else [schema.empty_table(), *self.tables]
        self.tables, self.num_bytes = [], 0
        return pa.concat_tables(tables)


def run_merge(task: MergeTask) -> Totals:
    """Run one task, in a worker. Repeats it when the storage fails."""
    return patiently(task, task.run.path)


def plan_merge(run: RunFolder, kind: RecordKind) -> list[MergeTask]:
    """The tasks that merge the committed files of a run. Shards stay whole."""
    infos = sorted(run.committed.files(recursive=True), key=lambda info: info.path)
    sizes = {"/".join(info.path.split("/")[-2:]): int(info.size or 0) for info in infos if _is_records(info.path)}
    groups: list[list[str]] = []
    num_bytes = TARGET_BYTES
    for _, names in groupby(sizes, lambda name: name.split("/")[0]):
        shard = list(names)
        if num_bytes >= TARGET_BYTES:
            groups.append([])
            num_bytes = 0
        groups[-1] += shard
        num_bytes += sum(sizes[name] for name in shard)
    return [MergeTask(run, kind, f"part-{number:05d}.parquet", tuple(files)) for number, files in enumerate(groups)]


def merge(
    run: RunFolder,
    kind: RecordKind,
    run_all: Callable[[Sequence[MergeTask]], Iterable[Totals]],
    check: Callable[[], None] = lambda: None,
) -> Totals:
    """Merge the committed files of a run, of which no worker writes any more. `run_all` runs the tasks.

    `check` raises if the run is no longer this command's. Returns the totals of the records in `rows`.
    """
    run.rows.delete_folder()  # what a merge that died has left
    run.rows.make_folder()
    tasks = plan_merge(run, kind)
    left_out = run_all(tasks)
    merged = {name for task in tasks for name in task.files}  # a worker may have died between entry and file
    commits = [commit for commit in CommitReader(run.commit_logs).commits() if commit.file in merged]
    totals = Totals.over(commit.totals for commit in commits)
    for each in left_out:
        totals.subtract(each)
    check()
    run.commit_history.write_bytes("".join(commit.line() for commit in commits).encode())
    run.rows_done.write_bytes(json.dumps(totals.as_dict()).encode())
    return totals


def clear(run: RunFolder) -> None:
    """Delete what only a run at work needs."""
    for folder in (run.committed, run.commit_logs, run.journal, run.replies):
        folder.delete_folder()
    for file in (run.session, run.probe):
        file.delete_file()


def _is_records(path: str) -> bool:
    return path.endswith(".parquet") and not path.rsplit("/", 1)[-1].startswith(".")
