"""A corpus cut into parts is the corpus: the same rows with the same ids, however it is cut."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import UserError
from actors.runs.commits import Commit
from actors.runs.corpus import Corpus, CorpusFile, Part
from actors.runs.storage import open_storage
from actors.runs.totals import Totals
from jobs.driver import inputs, reading
from jobs.driver.reading import plan_reading, sample_rows, without_done


def corpus_of(*paths, **settings):
    files = tuple(CorpusFile(open_storage(str(path)), path.name, path.stat().st_size) for path in paths)
    return Corpus(files, **({"format_name": "steps"} | settings))


def ids_of(corpus, parts):
    return [
        row_id
        for part in parts
        for table in corpus.only(part.file).tables(part, 100)
        for row_id in table["id"].to_pylist()
    ]


def lines_of(count, blank_every=7):
    """JSON lines of very different lengths, with blank lines between some of them."""
    rows = [{"question": "q" * (number % 13 * 9), "steps": ["a"], "answer": str(number)} for number in range(count)]
    return "".join(json.dumps(row) + "\n" * (2 if number % blank_every == 0 else 1) for number, row in enumerate(rows))


@pytest.fixture
def files(tmp_path):
    """Three files of 250, 40 and 90 rows: JSON lines, compressed ones, and Parquet."""
    plain, packed, table = (tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"))
    plain.write_text(lines_of(250).rstrip("\n"))
    packed.write_bytes(gzip.compress(lines_of(40).encode()))
    columns = {"question": ["q"] * 90, "steps": [["a"]] * 90, "answer": ["1"] * 90}
    pq.write_table(pa.table(columns), table, row_group_size=25)
    return plain, packed, table


ROWS = {"a.jsonl": 250, "b.jsonl.gz": 40, "c.parquet": 90}
EXPECTED = [f"{name}:{number}" for name, rows in ROWS.items() for number in range(rows)]


@pytest.mark.parametrize("part_bytes", [1, 50, 64, 333, 4096, 1 << 26])
def test_every_row_is_in_one_part_with_its_own_id(files, monkeypatch, part_bytes):
    monkeypatch.setattr(reading, "PART_BYTES", part_bytes)
    corpus = corpus_of(*files)
    parts = plan_reading(corpus)
    assert ids_of(corpus, parts) == EXPECTED
    assert [part.num_rows for part in parts if part.file == 1] == [None]
    assert sum(part.num_rows for part in parts if part.file != 1) == 340


@pytest.mark.parametrize("limit", [1, 249, 250, 251, 290, 300, 999])
def test_the_limit_counts_rows_over_files(files, monkeypatch, limit):
    monkeypatch.setattr(reading, "PART_BYTES", 300)
    corpus = corpus_of(*files, limit=limit)
    parts = plan_reading(corpus)
    assert ids_of(corpus, parts) == EXPECTED[:limit]
    assert sum(part.num_rows for part in parts) == min(limit, 380)


def test_done_shards_are_not_read_again(files, monkeypatch):
    monkeypatch.setattr(reading, "PART_BYTES", 300)
    monkeypatch.setattr(reading, "ROWS_PER_SHARD", 100)
    monkeypatch.setattr("actors.runs.corpus.ROWS_PER_SHARD", 100)
    corpus = corpus_of(*files)
    parts = plan_reading(corpus)
    commits = [
        Commit(f"{shard}/x.parquet", 0.0, Totals(rows))
        for shard, rows in {"0000000-0000000": 60, "0000000-0000001": 100, "0000000-0000002": 50,
                            "0000001-0000000": 40, "0000002-0000000": 90}.items()
    ]  # fmt: skip
    commits.append(Commit("0000000-0000000/y.parquet", 0.0, Totals(30)))
    left = without_done(parts, commits)
    # 90 of the first 100 rows are not enough, and nobody knows that the compressed file ends at row 40.
    assert ids_of(corpus, left.parts) == [*EXPECTED[:100], *EXPECTED[250:290]]
    assert left.num_done == 100 + 50 + 90
    assert len(left.parts) < len(parts)


def test_a_sample_is_of_all_files_and_always_the_same(files, monkeypatch):
    monkeypatch.setattr(reading, "PART_BYTES", 300)
    corpus = corpus_of(*files)
    parts = plan_reading(corpus)
    chosen = ids_of(corpus, sample_rows(parts, 380, 60))
    assert len(chosen) == len(set(chosen)) == 60
    assert {row_id.split(":")[0] for row_id in chosen} == {"a.jsonl", "b.jsonl.gz", "c.parquet"}
    assert chosen == ids_of(corpus, sample_rows(parts, 380, 60))
    assert len(ids_of(corpus, sample_rows(parts, 380, 9999))) == 380


def test_estimates_know_what_compression_does(tmp_path):
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(lines_of(60_000).encode()))
    estimate = inputs.estimate_rows(corpus_of(packed))
    assert not estimate.is_exact
    assert estimate.num_rows == pytest.approx(60_000, rel=0.3)  # the ratio of compression is 30


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 nothing else")
    with pytest.raises(UserError, match=r"--input: a\.parquet cannot be read"):
        plan_reading(corpus_of(path))


def test_damage_in_the_middle_of_a_compressed_file_is_told_at_once(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    packed = bytearray(gzip.compress(random.Random(1).randbytes(1 << 16).hex().encode() + b"\n"))
    packed[len(packed) // 2] ^= 255
    path.write_bytes(packed)
    corpus = corpus_of(path)
    with pytest.raises(UserError, match=r"--input: a\.jsonl\.gz cannot be read: zlib inflate failed"):
        list(corpus.tables(Part(0), 10))
