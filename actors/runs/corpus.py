"""The input of a job: JSONL and Parquet files -> tables of rows with stable ids.

A row is a parsed Chain or Problem, or the reason why the record cannot be parsed. Either way it carries what its
terminal record needs. Broken bytes, lines and values become rows, not errors.
"""

import hashlib
import itertools
import json
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import UserError
from actors.runs.record_kinds import RANKING, SAMPLE_FIELDS
from actors.runs.retries import Resumed
from actors.runs.storage import Storage
from algorithms.chains import Chain
from algorithms.formats import FORMATS, parse_record, source_json
from algorithms.graded import FACTS, GradedSample
from algorithms.problems import Problem
from algorithms.row_errors import RowError

SUFFIXES: Final = (".parquet", ".jsonl", ".ndjson", ".json", ".jsonl.gz", ".jsonl.zst", ".jsonl.bz2")
COMPRESSED: Final = (".gz", ".zst", ".bz2")
READ_BYTES: Final = 1 << 22
ROWS_PER_SHARD: Final = 1000  # the grid on which committed rows are looked up

ROW_FIELDS: Final = (
    ("id", pa.string()),
    ("shard", pa.string()),
    ("reason", pa.string()),  # null, or why the record could not be parsed
    ("source", pa.string()),
    ("question", pa.string()),
    ("answer", pa.string()),
)
CHAIN_SCHEMA: Final = pa.schema(
    [
        *ROW_FIELDS,
        ("steps", pa.list_(pa.string())),
        ("joiner", pa.string()),
        ("separators", pa.list_(pa.string())),
    ]
)
GIVEN_SAMPLE_TYPE: Final = pa.struct(
    [
        ("text", pa.string()),
        ("fault", pa.string()),
        ("origin", pa.string()),
        ("given_correct", pa.bool_()),
        *SAMPLE_FIELDS,
    ]
)
PROBLEM_SCHEMA: Final = pa.schema([*ROW_FIELDS, ("samples", pa.list_(GIVEN_SAMPLE_TYPE)), ("last_number", pa.bool_())])
GRADED_SCHEMA: Final = pa.schema(
    [
        *ROW_FIELDS,
        ("grade", pa.string()),
        ("grade_reason", pa.string()),
        *((field.name, field.type) for field in RANKING.schema if field.name in FACTS and field.name != "answer"),
    ]
)
ROW_SCHEMAS: Final = MappingProxyType({Chain: CHAIN_SCHEMA, Problem: PROBLEM_SCHEMA, GradedSample: GRADED_SCHEMA})


@dataclass(frozen=True)
class CorpusFile:
    """One input file. `name` is its path below the input's root; the ids of its rows begin with it."""

    storage: Storage
    name: str
    num_bytes: int

    @property
    def is_parquet(self) -> bool:
        """Whether it is read as Parquet. Otherwise it is JSON lines."""
        return self.name.lower().endswith(".parquet")

    @property
    def is_compressed(self) -> bool:
        """Whether it is one compressed stream, which nobody can enter in the middle."""
        return self.name.lower().endswith(COMPRESSED)


@dataclass(frozen=True)
class Part:
    """Rows of one file that one task reads: a range of bytes of JSON lines, some row groups of Parquet, or all of it.

    A line belongs to the range that holds its first byte. `num_rows` is None if nobody has counted the rows.
    """

    file: int  # index in the corpus
    first_row: int = 0
    num_rows: int | None = None
    start: int = 0
    stop: int | None = None
    row_groups: tuple[int, ...] | None = None
    done_shards: frozenset[int] = frozenset()  # shards of the file whose rows are all committed
    chosen: frozenset[int] | None = None  # rows of the file; None for all

    def wants(self, row: int) -> bool:
        """Whether a row of the file is to be read."""
        return row // ROWS_PER_SHARD not in self.done_shards and (self.chosen is None or row in self.chosen)

    @property
    def end_row(self) -> int | None:
        """The row after the last, None if nobody knows."""
        return None if self.num_rows is None else self.first_row + self.num_rows


@dataclass(frozen=True)
class Corpus:
    """What to read and how. `limit` counts rows from the first file on.

    `columns` maps a role of the format to a column. `id_column` names the column with the ids. `repeated` lists the
    rows whose id an earlier row has, each with the position of that earlier row.
    """

    files: tuple[CorpusFile, ...]
    format_name: str
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    id_column: str | None = None
    limit: int | None = None
    repeated: Mapping[int, Mapping[int, str]] = field(default_factory=dict)  # file -> row -> earlier position
    keeps_columns: bool = False  # records hold only part of an item, so `source` keeps all columns
    first_file: int = 0  # index of files[0] in the whole input

    @property
    def schema(self) -> pa.Schema:
        """The schema of the tables of rows: the row's own fields and those of the format's items."""
        return ROW_SCHEMAS[FORMATS[self.format_name].item]

    def only(self, file: int) -> "Corpus":
        """The corpus of one file, with only what a task needs to read it."""
        return replace(
            self,
            files=(self.files[file],),
            repeated={file: self.repeated[file]} if file in self.repeated else {},
            first_file=file,
        )

    def tables(self, part: Part, rows_per_block: int) -> Iterator[pa.Table]:
        """The rows of a part as tables of `schema`, at most `rows_per_block` rows each."""
        file_index = part.file - self.first_file
        rows = (self._row(file_index, *row) for row in _rows(self.files[file_index], part))
        with damage_as_user_error(self.files[file_index]):
            while block := list(itertools.islice(rows, rows_per_block)):
                yield pa.Table.from_pylist(block, schema=self.schema)

    def records(self, file_index: int) -> Iterator[Any]:
        """The raw records of one file: dicts, other JSON values, and a RowError for each line that is not JSON."""
        return (record for _, record, _ in _rows(self.files[file_index], Part(file_index)))

    def _row(self, file_index: int, number: int, record: Any, line: bytes | None) -> dict[str, Any]:
        position = f"{self.files[file_index].name}:{number}"
        row: dict[str, Any] = {
            # The suffix keeps it apart from every id that the corpus can hold.
            "id": position if self.id_column is None else f"{position}:no-id",
            "shard": f"{self.first_file + file_index:07d}-{number // ROWS_PER_SHARD:07d}",
        }
        corpus_format = FORMATS[self.format_name]
        used = {} if corpus_format.keeps_columns or self.keeps_columns else {**corpus_format.columns, **self.columns}
        try:
            if isinstance(record, RowError):
                raise record
            if self.id_column is not None:
                given = given_id(record, self.id_column)
                first = self.repeated.get(self.first_file + file_index, {}).get(number)
                if first is not None:
                    raise RowError("duplicate_id", f"{given!r} is the id of {first} too")
                row["id"] = given
            item = parse_record(record, self.format_name, self.columns, self.split)
            taken = {
                *(name for role, name in used.items() if role not in corpus_format.kept),
                *([self.id_column] if self.id_column else []),
            }
            if isinstance(item, Problem):
                taken |= {sample.origin for sample in item.samples if sample.origin is not None}
            source = source_json(record, taken)
            if corpus_format.source_column is not None and isinstance(record.get(corpus_format.source_column), str):
                source = record[corpus_format.source_column]  # a record of ours
        except RowError as error:
            return row | {"reason": _encodable(str(error)), "source": _whole_source(record, line)}
        except RecursionError:
            return row | {"reason": "invalid_json: nested too deeply", "source": _whole_source(record, line)}
        return row | asdict(item) | {"source": source}


def given_id(record: Any, id_column: str) -> str:
    """The id in a record. Raises RowError if there is none."""
    if isinstance(record, RowError):
        raise record
    if not isinstance(record, Mapping):
        raise RowError("wrong_type", "a row must be an object")
    if id_column not in record:
        raise RowError("missing_field", f"column {id_column!r}")
    value = record[id_column]
    if value is None:
        raise RowError("null_field", f"column {id_column!r}")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError("wrong_type", f"column {id_column!r} must be text or a whole number")
    if isinstance(value, str) and _encodable(value) != value:
        raise RowError("invalid_unicode", f"column {id_column!r}")
    return str(value)


def id_hash(given: str) -> int:
    """A 64-bit hash of an id: small enough to keep for every row, and large enough that collisions do not happen."""
    return int.from_bytes(hashlib.blake2b(given.encode(), digest_size=8).digest(), "little")


def repeated_ids(
    positions: Iterable[tuple[int, np.ndarray, np.ndarray]], names: Sequence[str]
) -> dict[int, dict[int, str]]:
    """The rows whose id an earlier row has: file -> row -> position of the first row with that id.

    `positions` are (file, row numbers [N], id hashes [N]) in input order, `names` the names of the files. Memory: 16
    bytes a row.
    """
    parts = list(positions)
    starts = np.cumsum([0, *[len(part[1]) for part in parts]])
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *[part[2] for part in parts]])
    order = np.argsort(hashes, kind="stable")  # equal hashes are adjacent, in input order

    def place(index: int) -> tuple[int, int]:
        part = int(np.searchsorted(starts, index, side="right")) - 1
        return parts[part][0], int(parts[part][1][index - starts[part]])

    found: dict[int, dict[int, str]] = {}
    first = ""
    same_as_before = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    previous = -1
    for at in same_as_before.tolist():
        if at != previous + 1:  # a new group of equal hashes begins one before
            file, row = place(int(order[at - 1]))
            first = f"{names[file]}:{row}"
        file, row = place(int(order[at]))
        found.setdefault(file, {})[row] = first
        previous = at
    return found


def id_hashes(file: CorpusFile, part: Part, id_column: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and id hashes of the rows of a part that have an id."""
    rows: list[int] = []
    hashes: list[int] = []
    for number, record, _ in _rows(file, part, [id_column] if file.is_parquet else None):
        try:
            hashes.append(id_hash(given_id(record, id_column)))
        except RowError:
            continue
        rows.append(number)
    return np.asarray(rows, dtype=np.int64), np.asarray(hashes, dtype=np.uint64)


def count_lines(file: CorpusFile, part: Part, at_most: int | None = None) -> int:
    """The rows of a part of JSON lines, counted up to `at_most`. Raises UserError if it cannot be read."""
    with damage_as_user_error(file):
        return sum(1 for _ in itertools.islice(_lines(file, part.start, part.stop), at_most))


@contextmanager
def damage_as_user_error(file: CorpusFile) -> Iterator[None]:
    """Raise UserError for a file that cannot be read."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"--input: {file.name} cannot be read: {error}") from None


def read_part(batch: Mapping[str, Any]) -> Iterator[pa.Table]:
    """What Ray Data calls to read: the tables of the pickled (corpus, part, rows per table) in `batch["part"]`."""
    for pickled in batch["part"]:
        corpus, part, rows_per_block = pickle.loads(pickled)
        yield from corpus.tables(part, rows_per_block)


def _rows(file: CorpusFile, part: Part, columns: list[str] | None = None) -> Iterator[tuple[int, Any, bytes | None]]:
    """The rows of a part that it wants: number, record, and its line if it has one.

    A RowError stands for a line that cannot be parsed.
    """
    numbered = _parquet_rows(file, part, columns) if file.is_parquet else _json_rows(file, part)
    last = max(part.chosen, default=-1) if part.chosen is not None else None
    for row in numbered:
        yield row
        if row[0] == last:
            return


def _json_rows(file: CorpusFile, part: Part) -> Iterator[tuple[int, Any, bytes]]:
    lines = itertools.islice(_lines(file, part.start, part.stop), part.num_rows)
    for number, line in enumerate(lines, part.first_row):
        if not part.wants(number):
            continue
        try:
            yield number, json.loads(line.decode("utf-8")), line
        except UnicodeDecodeError as error:
            yield number, RowError("invalid_utf8", f"byte {error.start} of the line"), line
        except (ValueError, RecursionError) as error:
            yield number, RowError("invalid_json", str(error)), line


def _lines(file: CorpusFile, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The lines that begin in a range of bytes, without blank ones, which are no rows."""
    position = max(0, start - 1)  # a line that begins at `start` has a newline before it
    is_before = start > 0
    rest = b""
    for chunk in Resumed(lambda: _chunks(file, max(0, start - 1)), file.storage.path):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            begin, position = position, position + len(line) + 1
            if stop is not None and begin >= stop:
                return
            if not is_before and line.strip():
                yield line
            is_before = False
    if rest.strip() and not is_before and (stop is None or position < stop):
        yield rest


def _chunks(file: CorpusFile, start: int) -> Iterator[bytes]:
    filesystem, path = file.storage.filesystem, file.storage.path
    if file.is_compressed:
        stream = filesystem.open_input_stream(path, compression="detect")
    else:
        stream = filesystem.open_input_file(path)
        stream.seek(start)
    with stream:
        while chunk := stream.read(READ_BYTES):
            yield chunk


def _parquet_rows(file: CorpusFile, part: Part, columns: list[str] | None) -> Iterator[tuple[int, Any, None]]:
    number = part.first_row
    for batch in Resumed(lambda: _parquet_batches(file, part, columns), file.storage.path):
        end = number + batch.num_rows if part.end_row is None else min(number + batch.num_rows, part.end_row)
        wanted = [row for row in range(number, end) if part.wants(row)]
        if wanted:
            batch = batch.take(pa.array([row - number for row in wanted]))
            values = zip(*map(_python_values, batch.columns), strict=True)
            for row, record in zip(wanted, values, strict=True):
                yield row, dict(zip(batch.schema.names, record, strict=True)), None
        number = end
        if number == part.end_row:
            return


def _parquet_batches(file: CorpusFile, part: Part, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    with file.storage.filesystem.open_input_file(file.storage.path) as source:
        # Without buffering ahead: a row group can be as large as the file.
        parquet = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_BYTES)
        yield from parquet.iter_batches(batch_size=1000, row_groups=part.row_groups, columns=columns)


def _python_values(array: pa.Array) -> list[Any]:
    """The values of a column. Text that is not UTF-8 stays bytes, which every format rejects."""
    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        raw = array.cast(_as_binary(array.type)).to_pylist()
    return [_decode(value) for value in raw]


def _as_binary(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_as_binary(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(part.name, _as_binary(part.type)) for part in kind])
    return kind


def _decode(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if isinstance(value, list):
        return [_decode(part) for part in value]
    if isinstance(value, dict):
        return {key: _decode(part) for key, part in value.items()}
    return value


def _whole_source(record: Any, line: bytes | None) -> str:
    """All of a broken record. If its line is a JSON object, the line itself."""
    if line is None:
        return source_json(record, set())
    text = line.decode("utf-8", "backslashreplace").strip()
    return text if isinstance(record, Mapping) else source_json({"raw": text}, set())


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
