import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.runs.corpus import Corpus, CorpusFile, Part, id_hashes, repeated_ids
from actors.runs.storage import open_storage


def corpus_of(*paths, **settings):
    files = tuple(CorpusFile(open_storage(str(path)), path.name, path.stat().st_size) for path in paths)
    return Corpus(files, **({"format_name": "steps"} | settings))


def rows_of(corpus, rows_per_block=10):
    parts = [Part(number) for number in range(len(corpus.files))]
    tables = [table for part in parts for table in corpus.only(part.file).tables(part, rows_per_block)]
    assert all(0 < table.num_rows <= rows_per_block for table in tables)
    return [row for table in tables for row in table.to_pylist()]


GOOD = {"question": "q", "steps": ["a", "7"], "answer": "7", "level": 2}


def test_good_rows_carry_their_chain_and_all_other_columns(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(json.dumps(GOOD) for _ in range(1002)))
    rows = rows_of(corpus_of(path))
    assert rows[1001] == {"id": "c.jsonl:1001", "shard": "0000000-0000001", "reason": None, "question": "q",
                          "steps": ["a", "7"], "answer": "7", "joiner": "\n", "separators": [],
                          "source": '{"level": 2}'}  # fmt: skip


def test_broken_lines_are_rows_that_keep_all_their_bytes(tmp_path):
    path = tmp_path / "c.jsonl"
    deep = b"[" * 100_000 + b"]" * 100_000
    lines = [json.dumps(GOOD).encode(), b'{"question": "q", "ste', b"\xff\xfe", b"", b"[1]",
             b'{"question": "\\ud800", "steps": ["a"], "answer": "1"}', deep, b"nonsense"]  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    rows = rows_of(corpus_of(path))
    assert [row["reason"] and row["reason"].split(":")[0] for row in rows] == [
        None, "invalid_json", "invalid_utf8", "wrong_type", "invalid_unicode", "invalid_json", "invalid_json",
    ]  # fmt: skip
    assert json.loads(rows[1]["source"]) == {"raw": '{"question": "q", "ste'}
    assert json.loads(rows[2]["source"]) == {"raw": "\\xff\\xfe"}
    assert json.loads(rows[4]["source"])["question"] == "\ud800"
    assert json.loads(rows[5]["source"]) == {"raw": deep.decode()}
    assert len({row["id"] for row in rows}) == 7


def test_parquet_with_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "c.parquet"
    questions = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    table = pa.table({"question": questions, "steps": [["a"], ["b"]], "answer": ["1", "2"], "x": [1.5, None]})
    pq.write_table(table, path)
    fine, broken = rows_of(corpus_of(path))
    assert (fine["question"], fine["source"]) == ("fine", '{"x": 1.5}')
    assert broken["reason"] == "invalid_utf8: column 'question'"
    assert json.loads(broken["source"])["question"] == "\\xff\\xfe"


def test_compressed_lines_are_read(tmp_path):
    import gzip

    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode() + b"\n"))
    assert [row["question"] for row in rows_of(corpus_of(path))] == ["q"]


def test_the_first_row_with_an_id_keeps_it(tmp_path):
    ids = ["x", "y", "x", None, 7, "y", [1], "x"]
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(json.dumps(GOOD | {"key": each}) for each in ids))
    corpus = corpus_of(path, id_column="key")
    repeated = repeated_ids([(0, *id_hashes(corpus.files[0], Part(0), "key"))], [path.name])
    assert repeated == {0: {2: "c.jsonl:0", 5: "c.jsonl:1", 7: "c.jsonl:0"}}
    rows = rows_of(corpus_of(path, id_column="key", repeated=repeated))
    assert [(row["id"], row["reason"]) for row in rows] == [
        ("x", None),
        ("y", None),
        ("c.jsonl:2:no-id", "duplicate_id: 'x' is the id of c.jsonl:0 too"),
        ("c.jsonl:3:no-id", "null_field: column 'key'"),
        ("7", None),
        ("c.jsonl:5:no-id", "duplicate_id: 'y' is the id of c.jsonl:1 too"),
        ("c.jsonl:6:no-id", "wrong_type: column 'key' must be text or a whole number"),
        ("c.jsonl:7:no-id", "duplicate_id: 'x' is the id of c.jsonl:0 too"),
    ]


def test_repeated_ids_over_files():
    names = ["a", "b", "c", "d"]

    def part(file, first, *hashes):
        return file, np.arange(first, first + len(hashes)), np.asarray(hashes, dtype=np.uint64)

    found = repeated_ids([part(0, 0, 5, 6), part(1, 0, 6, 7), part(1, 2, 8), part(2, 0), part(3, 0, 8, 6)], names)
    assert found == {1: {0: "a:1"}, 3: {0: "b:2", 1: "a:1"}}
    assert repeated_ids([], names) == {}
    assert repeated_ids([part(0, 0, 1)], names) == {}
