"""A worker's part of the examples: which rows of which files it trains on, and nothing else read.

The rows of a part (train or validation) are numbered through all files, in the order of the files. A worker has always
the same rows for the same rank and number of workers, whichever machine it runs on.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.runs.retries import retried
from actors.runs.storage import Storage
from actors.training.examples import EXAMPLE_SCHEMA

FILES_AT_A_TIME: Final = 8
COUNTED_COLUMNS: Final = ["part", "unused", "num_tokens"]


@dataclass(frozen=True, slots=True)
class ExampleFile:
    """A file of examples: its name in OUTPUT/examples and its rows for training and validation."""

    name: str
    train: int
    validation: int


@dataclass(frozen=True, slots=True)
class FileCounts:
    """The numbers of a file's rows, of its tokens to train on, and of the reasons why other rows are not used."""

    file: ExampleFile
    tokens: int
    unused: dict[str, int]


def count_files(folder: Storage) -> Iterator[FileCounts]:
    """The counts of each file of examples, by name. Reads three small columns."""
    files = [folder / info.base_name for info in folder.files() if info.path.endswith(".parquet")]
    with ThreadPoolExecutor(FILES_AT_A_TIME) as readers:
        yield from readers.map(_count, files)


def range_of(rank: int, world_size: int, size: int) -> tuple[int, int]:
    """The first row of a worker, and the first one after its rows, of `size` rows."""
    return size * rank // world_size, size * (rank + 1) // world_size


def read_rows(folder: Storage, files: Sequence[ExampleFile], part: str, first: int, end: int) -> pa.Table:
    """The rows of a part from `first` up to `end`, as a table of EXAMPLE_SCHEMA with a chunk for each row group.

    Reads only the row groups that hold some of them. The files must be those that were counted.
    """
    places, seen = [], 0
    for file in files:
        size = file.train if part == "train" else file.validation
        begin, stop = _overlap(first, end, seen, size)
        if begin < stop:
            places.append((folder / file.name, begin, stop))
        seen += size
    with ThreadPoolExecutor(FILES_AT_A_TIME) as readers:
        tables = readers.map(lambda place: _read(place[0], part, *place[1:]), places)
        table = pa.concat_tables([EXAMPLE_SCHEMA.empty_table(), *tables])
    assert table.num_rows == end - first, "the files are those that were counted"
    return table


@retried
def _read(file: Storage, part: str, first: int, end: int) -> pa.Table:
    """Rows of a part of one file."""
    tables, seen = [EXAMPLE_SCHEMA.empty_table()], 0
    with pq.ParquetFile(file.path, filesystem=file.filesystem) as parquet:
        for group in range(parquet.num_row_groups):
            is_of_part = pc.equal(parquet.read_row_group(group, ["part"])["part"], part)
            size = pc.sum(is_of_part).as_py() or 0
            begin, stop = _overlap(first, end, seen, size)
            if begin < stop:
                rows = parquet.read_row_group(group, EXAMPLE_SCHEMA.names).filter(is_of_part)
                tables.append(rows.slice(begin, stop - begin).cast(EXAMPLE_SCHEMA))
            seen += size
            if seen >= end:
                break
    return pa.concat_tables(tables)


@retried
def _count(file: Storage) -> FileCounts:
    parts: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    tokens = 0
    with pq.ParquetFile(file.path, filesystem=file.filesystem) as parquet:
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, COUNTED_COLUMNS)
            parts.update(_tally(rows["part"]))
            unused.update(_tally(rows["unused"].drop_null()))
            tokens += pc.sum(rows["num_tokens"].filter(pc.equal(rows["part"], "train"))).as_py() or 0
    return FileCounts(ExampleFile(file.name, parts["train"], parts["validation"]), tokens, dict(unused))


def _tally(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs, in the order in which they come."""
    counts = column.value_counts()
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def _overlap(first: int, end: int, seen: int, size: int) -> tuple[int, int]:
    """The part of the rows `first` to `end` that lies in the `size` rows after row `seen`, counted from there."""
    return max(first - seen, 0), min(end - seen, size)
