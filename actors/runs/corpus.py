"""The input of a job: JSONL and Parquet files -> blocks of rows with stable ids, as a Ray Data source.

A row is a parsed Chain or Problem, or the reason why the record cannot be parsed. Either way it carries what its
terminal record needs. Broken bytes, lines and values become rows, not errors.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from actors.runs.record_kinds import SAMPLE_FIELDS
from actors.runs.storage import Storage
from algorithms.chains import Chain
from algorithms.formats import FORMATS, parse_record, source_json
from algorithms.problems import Problem
from algorithms.row_errors import RowError

SUFFIXES: Final = (".parquet", ".jsonl", ".ndjson", ".json", ".jsonl.gz", ".jsonl.zst", ".jsonl.bz2")
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
ROW_SCHEMAS: Final = MappingProxyType({Chain: CHAIN_SCHEMA, Problem: PROBLEM_SCHEMA})


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


@dataclass(frozen=True)
class Corpus:
    """What to read and how. `limit` counts rows from the first file on, and `chosen` selects rows.

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
    chosen: Mapping[int, frozenset[int]] | None = None  # file -> rows
    keeps_columns: bool = False  # records hold only part of an item, so `source` keeps all columns
    first_file: int = 0  # index of files[0] in the whole input

    @property
    def schema(self) -> pa.Schema:
        """The schema of the tables of rows: the row's own fields and those of the format's items."""
        return ROW_SCHEMAS[FORMATS[self.format_name].item]

    def part(self, first: int, count: int) -> "Corpus":
        """Some of the files, with only what a task needs to read them."""
        numbers = range(first, first + count)
        return replace(
            self,
            files=self.files[first : first + count],
            repeated={number: self.repeated[number] for number in numbers if number in self.repeated},
            chosen=None if self.chosen is None else {n: self.chosen[n] for n in numbers if n in self.chosen},
            first_file=first,
        )

    def tables(self, file_index: int, rows_per_block: int) -> Iterator[pa.Table]:
        """The rows of one file as tables of `schema`, at most `rows_per_block` rows each."""
        block: list[dict[str, Any]] = []
        chosen = None if self.chosen is None else self.chosen.get(self.first_file + file_index, frozenset())
        last = math.inf if chosen is None else max(chosen, default=-1)
        for number, (record, line) in enumerate(_records(self.files[file_index])):
            if number > last:
                break
            if chosen is not None and number not in chosen:
                continue
            block.append(self._row(file_index, number, record, line))
            if len(block) >= rows_per_block:
                yield pa.Table.from_pylist(block, schema=self.schema)
                block = []
        if block:
            yield pa.Table.from_pylist(block, schema=self.schema)

    def records(self, file_index: int) -> Iterator[Any]:
        """The raw records of one file: dicts, other JSON values, and a RowError for each line that is not JSON."""
        return (record for record, _ in _records(self.files[file_index]))

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


class CorpusSource(Datasource):
    """A Corpus as a Ray Data source: one streaming task for each file, or one task in all if there is a limit."""

    def __init__(self, corpus: Corpus, rows_per_block: int) -> None:
        super().__init__()
        self._corpus = corpus
        self._rows_per_block = rows_per_block

    def get_name(self) -> str:
        """The name of the read in Ray's plans and metrics."""
        return "Corpus"

    def estimate_inmemory_data_size(self) -> int | None:
        """The size of the files in bytes, a hint for Ray's scheduler."""
        return sum(file.num_bytes for file in self._corpus.files)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One streaming task for each file; with a limit, one task that reads file after file."""
        corpus, rows_per_block = self._corpus, self._rows_per_block
        if corpus.limit is not None:
            return [_read_task(corpus, rows_per_block)]
        numbers = [n for n in range(len(corpus.files)) if corpus.chosen is None or n in corpus.chosen]
        return [_read_task(corpus.part(number, 1), rows_per_block) for number in numbers]


def _read_task(corpus: Corpus, rows_per_block: int) -> ReadTask:
    metadata = BlockMetadata(
        num_rows=None,
        size_bytes=sum(file.num_bytes for file in corpus.files),
        input_files=tuple(file.storage.path for file in corpus.files),
        exec_stats=None,
    )
    return ReadTask(lambda: read_tables(corpus, rows_per_block), metadata, corpus.schema)


def read_tables(corpus: Corpus, rows_per_block: int) -> Iterator[pa.Table]:
    """The tables of all files, up to the corpus' limit."""
    left = corpus.limit
    for file_index in range(len(corpus.files)):
        per_block = rows_per_block if left is None else min(rows_per_block, left)
        for table in corpus.tables(file_index, per_block):
            table = table if left is None else table.slice(0, left)
            yield table
            if left is not None:
                left -= table.num_rows
                if left == 0:
                    return


def repeated_ids(positions: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> dict[int, dict[int, str]]:
    """The rows whose id an earlier row has: file -> row -> position of the first row with that id.

    `positions` are (file name, row numbers [N], id hashes [N]) in input order. Memory: 16 bytes a row.
    """
    parts = list(positions)
    starts = np.cumsum([0, *[len(part[1]) for part in parts]])
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *[part[2] for part in parts]])
    order = np.argsort(hashes, kind="stable")  # equal hashes are adjacent, in input order

    def place(index: int) -> tuple[int, int]:
        part = int(np.searchsorted(starts, index, side="right")) - 1
        return part, int(parts[part][1][index - starts[part]])

    found: dict[int, dict[int, str]] = {}
    first = ""
    same_as_before = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    previous = -1
    for at in same_as_before.tolist():
        if at != previous + 1:  # a new group of equal hashes begins one before
            part, row = place(int(order[at - 1]))
            first = f"{parts[part][0]}:{row}"
        part, row = place(int(order[at]))
        found.setdefault(part, {})[row] = first
        previous = at
    return found


def file_id_hashes(file: CorpusFile, id_column: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and id hashes of the rows of a file that have an id."""
    rows: list[int] = []
    hashes: list[int] = []
    columns = [id_column] if file.is_parquet else None
    for number, (record, _) in enumerate(_records(file, columns)):
        if limit is not None and number >= limit:
            break
        try:
            hashes.append(id_hash(given_id(record, id_column)))
        except RowError:
            continue
        rows.append(number)
    return np.asarray(rows, dtype=np.int64), np.asarray(hashes, dtype=np.uint64)


def _records(file: CorpusFile, columns: list[str] | None = None) -> Iterator[tuple[Any, bytes | None]]:
    """Each record with its line, if it has one. A RowError stands for a line that cannot be parsed."""
    return _parquet_records(file, columns) if file.is_parquet else _json_records(file)


def _json_records(file: CorpusFile) -> Iterator[tuple[Any, bytes]]:
    for line in _lines(file):
        if not line.strip():
            continue
        try:
            yield json.loads(line.decode("utf-8")), line
        except UnicodeDecodeError as error:
            yield RowError("invalid_utf8", f"byte {error.start} of the line"), line
        except (ValueError, RecursionError) as error:
            yield RowError("invalid_json", str(error)), line


def _lines(file: CorpusFile) -> Iterator[bytes]:
    with file.storage.filesystem.open_input_stream(file.storage.path, compression="detect") as stream:
        rest = b""
        while chunk := stream.read(READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        if rest:
            yield rest


def _parquet_records(file: CorpusFile, columns: list[str] | None) -> Iterator[tuple[Any, None]]:
    with file.storage.filesystem.open_input_file(file.storage.path) as source:
        parquet = pq.ParquetFile(source)
        for batch in parquet.iter_batches(batch_size=1000, columns=columns):
            values = [_python_values(column) for column in batch.columns]
            names = batch.schema.names
            yield from ((dict(zip(names, row, strict=True)), None) for row in zip(*values, strict=True))


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
