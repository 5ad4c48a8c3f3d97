"""From --input, --format and --columns to a Corpus: list its files, check its columns, fingerprint it."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import UserError
from actors.runs import manifest
from actors.runs.corpus import SUFFIXES, Corpus, CorpusFile, damage_as_user_error
from actors.runs.folder import ROWS, open_run_folder
from actors.runs.storage import list_files, open_storage
from algorithms.formats import FORMATS
from algorithms.segmentation import splitter

PEEK_ROWS: Final = 100
PEEK_BYTES: Final = 1 << 22  # of each file, to estimate its rows
FINGERPRINT_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class RowCount:
    """The number of rows: exact, or an estimate from the first lines."""

    num_rows: int
    is_exact: bool


def open_corpus(
    uri: str,
    format_name: str,
    columns: Mapping[str, str],
    split: str | None,
    id_column: str | None,
    limit: int | None,
    flag: str = "--input",
) -> Corpus:
    """The corpus behind a flag. Raises UserError if it cannot be read in this format."""
    corpus_format = FORMATS[format_name]
    unknown = sorted(set(columns) - set(corpus_format.columns))
    if unknown:
        raise UserError(f"--columns {unknown[0]}: format {format_name} reads {', '.join(corpus_format.columns)}")
    if split is not None:
        if corpus_format.split is None:
            raise UserError(f"--split {split} does nothing: rows of format {format_name} are already split into steps")
        try:
            splitter(split)
        except ValueError as error:
            raise UserError(f"--split: {error}") from None
    files, is_run = _listed(flag, uri)
    corpus = Corpus(files, format_name, dict(columns), split, id_column or ("id" if is_run else None), limit)
    if corpus.id_column is None and corpus_format.id_column in columns_of(corpus):
        corpus = dataclasses.replace(corpus, id_column=corpus_format.id_column)
    _check_columns(corpus, flag)
    return corpus


def list_corpus(flag: str, uri: str) -> Corpus:
    """The files behind a flag, whatever their rows hold. Raises UserError if there are none."""
    return Corpus(_listed(flag, uri)[0], format_name="")


def _listed(flag: str, uri: str) -> tuple[tuple[CorpusFile, ...], bool]:
    """The files behind `uri`, and whether they are a run's records."""
    try:
        uri, is_run = _rows_of_run(flag, uri)
        listed = list_files(uri, SUFFIXES)
        root = open_storage(uri)
    except (ValueError, OSError) as error:
        raise UserError(f"{flag}: {error}") from None
    common = _common_folder([storage.path for storage, _ in listed], root.path)
    return tuple(CorpusFile(storage, storage.path.removeprefix(common), size) for storage, size in listed), is_run


def _rows_of_run(flag: str, uri: str) -> tuple[str, bool]:
    """If `uri` is the folder of a run, the folder of its records. Raises UserError if the run is not finished."""
    if any(mark in uri for mark in "*?[") or not open_run_folder(uri).manifest.exists():
        return uri, False
    run = manifest.load(open_run_folder(uri))
    if run is not None and run.status != "finished":
        raise UserError(f"{flag}: the run in {uri} is not finished; repeat its command to finish it")
    return f"{uri.rstrip('/')}/{ROWS}", True


def fingerprint(corpus: Corpus) -> dict[str, Any]:
    """What identifies the input: name, size, first and last bytes of every file."""

    def of_file(file: CorpusFile) -> bytes:
        with file.storage.filesystem.open_input_file(file.storage.path) as source:
            head = source.read(FINGERPRINT_BYTES)
            source.seek(max(0, file.num_bytes - FINGERPRINT_BYTES))
            tail = source.read(FINGERPRINT_BYTES)
        return hashlib.blake2b(repr((file.name, file.num_bytes)).encode() + head + tail).digest()

    digest = hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor(16) as pool:
        for part in pool.map(of_file, corpus.files):
            digest.update(part)
    return {
        "files": len(corpus.files),
        "bytes": sum(file.num_bytes for file in corpus.files),
        "digest": digest.hexdigest(),
    }


def estimate_rows(corpus: Corpus) -> RowCount:
    """The number of rows: exact for Parquet and short files, otherwise from the length of the first lines.

    Raises UserError for a file that does not hold what its name says.
    """
    with ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(_rows_of, corpus.files))
    num_rows = sum(count.num_rows for count in counts)
    if corpus.limit is not None:
        num_rows = min(num_rows, corpus.limit)
    return RowCount(num_rows, is_exact=all(count.is_exact for count in counts))


def _rows_of(file: CorpusFile) -> RowCount:
    with damage_as_user_error(file):
        if file.is_parquet:
            with file.storage.filesystem.open_input_file(file.storage.path) as source:
                return RowCount(int(pq.ParquetFile(source).metadata.num_rows), is_exact=True)
        # The raw stream tells how many compressed bytes the first lines take.
        with file.storage.filesystem.open_input_file(file.storage.path) as raw:
            codec = pa.Codec.detect(file.name).name if file.is_compressed else None
            stream = pa.CompressedInputStream(raw, codec) if codec else raw
            text = stream.read(PEEK_BYTES)
            is_whole = len(text) < PEEK_BYTES
            taken = raw.tell()
        lines = sum(1 for line in text.split(b"\n") if line.strip())
        return RowCount(lines if is_whole else round(lines * file.num_bytes / taken), is_whole)


def _check_columns(corpus: Corpus, flag: str) -> None:
    """Raise UserError unless the first rows of the first file have every column that the format needs."""
    corpus_format = FORMATS[corpus.format_name]
    roles = {**corpus_format.columns, **corpus.columns}
    wanted = {
        name: role for role, name in roles.items() if role not in corpus_format.optional or role in corpus.columns
    }
    if corpus.id_column is not None:
        wanted[corpus.id_column] = "id"
    present = columns_of(corpus)
    for name, role in wanted.items():
        if present and name not in present:
            if corpus.format_name == "graded":  # whose columns have no other names
                raise UserError(f"{flag}: {corpus.files[0].name} has no column {name!r}: give it a run of jobs.grade")
            flag = "--id-column" if role == "id" else f"--columns {role}"
            raise UserError(
                f"no column {name!r} in {corpus.files[0].name}, which has {', '.join(sorted(present))}: "
                f"name it with {flag} NAME, or choose another --format"
            )


def columns_of(corpus: Corpus) -> set[str]:
    """The columns of the first rows of the first file."""
    file = corpus.files[0]
    with damage_as_user_error(file):
        if file.is_parquet:
            with file.storage.filesystem.open_input_file(file.storage.path) as source:
                return set(pq.ParquetFile(source).schema_arrow.names)
        records = list(itertools.islice(corpus.records(0), PEEK_ROWS))
    return {name for record in records if isinstance(record, Mapping) for name in record}


def _common_folder(paths: list[str], root: str) -> str:
    """The common start of all paths, up to a slash. Without it, ids do not depend on where the corpus lies."""
    if len(paths) == 1:
        return paths[0].rsplit("/", 1)[0] + "/"
    if root.rstrip("/") + "/" == paths[0][: len(root.rstrip("/")) + 1]:
        return root.rstrip("/") + "/"
    first, last = min(paths), max(paths)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length].rsplit("/", 1)[0] + "/"
