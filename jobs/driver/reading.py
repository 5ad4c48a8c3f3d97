"""From a Corpus to the parts of it that tasks read: cut, counted, and without what is committed already.

JSON lines are cut into ranges of bytes, Parquet into sets of row groups. Ids hold row numbers, so the lines of a file
are counted before they are read, by tasks as well. A compressed file is one stream and therefore one part, which nobody
counts unless there is a limit.
"""

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import pyarrow.parquet as pq

from actors.runs.commits import Commit
from actors.runs.corpus import (
    ROWS_PER_SHARD,
    Corpus,
    CorpusFile,
    Part,
    count_lines,
    damage_as_user_error,
    id_hashes,
    repeated_ids,
)
from jobs.driver import cluster

PART_BYTES: Final = 64 << 20
TASKS_FROM_BYTES: Final = 1 << 28  # a driver counts smaller inputs faster than tasks start
READERS: Final = 16


@dataclass(frozen=True)
class Reading:
    """What is left to read, and how many rows are committed already."""

    parts: tuple[Part, ...]
    num_done: int = 0

    @property
    def num_rows(self) -> int | None:
        """Rows in the parts that are read, those of done shards among them; None if nobody has counted them."""
        counts = [part.num_rows for part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)


def plan_reading(corpus: Corpus) -> tuple[Part, ...]:
    """All parts of a corpus, up to its limit. Needs Ray. Raises UserError for a damaged file."""
    with ThreadPoolExecutor(READERS) as pool:
        by_file = list(pool.map(lambda number: _cut(corpus.files[number], number), range(len(corpus.files))))
    if corpus.limit is not None:
        return tuple(_up_to(corpus, itertools.chain(*by_file), corpus.limit))
    parts = list(itertools.chain(*by_file))
    counted = [part for part in parts if part.num_rows is None and not corpus.files[part.file].is_compressed]
    counts = dict(zip(map(id, counted), _count(corpus, counted), strict=True))
    return tuple(_numbered(dataclasses.replace(part, num_rows=counts.get(id(part), part.num_rows)) for part in parts))


def without_done(parts: Sequence[Part], commits: Iterable[Commit]) -> Reading:
    """The parts without the shards whose rows are all committed."""
    committed: Counter[str] = Counter()
    for commit in commits:
        committed[commit.file.split("/")[0]] += commit.totals.num_rows
    ends: dict[int, int | None] = {}  # of each file
    for part in parts:
        ends[part.file] = part.end_row
    done: dict[int, set[int]] = {}
    num_done = 0
    for shard, rows in committed.items():
        file, number = map(int, shard.split("-"))
        end = ends.get(file)
        size = ROWS_PER_SHARD if end is None else min(ROWS_PER_SHARD, end - number * ROWS_PER_SHARD)
        if rows >= size:
            done.setdefault(file, set()).add(number)
            num_done += size
    left = (dataclasses.replace(part, done_shards=frozenset(done.get(part.file, ()))) for part in parts)
    return Reading(tuple(part for part in left if not _is_done(part)), num_done)


def sample_rows(parts: Sequence[Part], estimate: int, size: int) -> tuple[Part, ...]:
    """Parts with `size` rows, chosen uniformly at random with a fixed seed. `estimate` is the number of all rows."""
    known = sum(part.num_rows or 0 for part in parts)
    num_unknown = sum(part.num_rows is None for part in parts)
    guess = max(1, (estimate - known) // max(1, num_unknown))  # rows of a part that nobody has counted
    sizes = [guess if part.num_rows is None else part.num_rows for part in parts]
    ends = list(itertools.accumulate(sizes))
    total = ends[-1] if ends else 0
    positions = iter(sorted(random.Random(0).sample(range(total), min(size, total))))
    chosen: list[Part] = []
    position = next(positions, None)
    for part, end, rows in zip(parts, ends, sizes, strict=True):
        mine = set()
        while position is not None and position < end:
            mine.add(part.first_row + position - (end - rows))
            position = next(positions, None)
        if mine:
            chosen.append(dataclasses.replace(part, chosen=frozenset(mine)))
    return tuple(chosen)


def with_repeated_ids(corpus: Corpus, parts: Sequence[Part]) -> Corpus:
    """The corpus with its repeated ids, if it has an id column. Needs Ray, and 16 bytes a row."""
    if corpus.id_column is None:
        return corpus
    import ray

    hashes = ray.remote(id_hashes)
    refs = [hashes.remote(corpus.files[part.file], part, corpus.id_column) for part in parts]
    found = ((part.file, *ray.get(ref)) for part, ref in zip(parts, refs, strict=True))
    with cluster.worker_errors():
        return dataclasses.replace(corpus, repeated=repeated_ids(found, [file.name for file in corpus.files]))


def _cut(file: CorpusFile, number: int) -> list[Part]:
    """The parts of one file. Those of Parquet are counted."""
    if file.is_compressed:
        return [Part(number)]
    if not file.is_parquet:
        stops = [*range(PART_BYTES, file.num_bytes, PART_BYTES), file.num_bytes]
        return [Part(number, start=start, stop=stop) for start, stop in zip([0, *stops], stops, strict=False)]
    with damage_as_user_error(file), file.storage.filesystem.open_input_file(file.storage.path) as source:
        metadata = pq.ParquetFile(source).metadata
    parts: list[Part] = []
    groups: list[int] = []
    first = rows = num_bytes = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        groups.append(index)
        rows, num_bytes = rows + group.num_rows, num_bytes + group.total_byte_size
        if num_bytes >= PART_BYTES or index == metadata.num_row_groups - 1:
            parts.append(Part(number, first, rows, row_groups=tuple(groups)))
            first, groups, rows, num_bytes = first + rows, [], 0, 0
    return parts


def _count(corpus: Corpus, parts: Sequence[Part]) -> list[int]:
    """The rows of parts of JSON lines."""
    files = [corpus.files[part.file] for part in parts]
    if sum(file.num_bytes for file in {file.storage.path: file for file in files}.values()) < TASKS_FROM_BYTES:
        return [count_lines(file, part) for file, part in zip(files, parts, strict=True)]
    import ray

    count = ray.remote(count_lines)
    with cluster.worker_errors():
        return list(ray.get([count.remote(file, part) for file, part in zip(files, parts, strict=True)]))


def _numbered(parts: Iterable[Part]) -> Iterator[Part]:
    """Counted parts with their first rows, without empty ones. A file of one part needs no count."""
    for _, of_file in itertools.groupby(parts, lambda part: part.file):
        first = 0
        for part in of_file:
            if part.num_rows != 0:
                yield dataclasses.replace(part, first_row=first)
            first += part.num_rows or 0


def _up_to(corpus: Corpus, parts: Iterable[Part], limit: int) -> Iterator[Part]:
    """Numbered parts up to `limit` rows in all. Counts only what it needs."""

    def counted() -> Iterator[Part]:
        left = limit
        for part in parts:
            if left == 0:
                return
            rows = part.num_rows if part.num_rows is not None else count_lines(corpus.files[part.file], part, left)
            yield dataclasses.replace(part, num_rows=min(rows, left))
            left -= min(rows, left)

    return _numbered(counted())


def _is_done(part: Part) -> bool:
    if part.end_row is None or not part.done_shards:
        return False
    shards = range(part.first_row // ROWS_PER_SHARD, (part.end_row - 1) // ROWS_PER_SHARD + 1)
    return part.done_shards.issuperset(shards)
