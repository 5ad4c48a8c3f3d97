import pytest

from actors.runs.record_kinds import REFINEMENT
from actors.runs.records import RecordStore, Totals, read_ids
from actors.runs.storage import list_files, open_storage


def record(row_id, status="refined", **values):
    return {"id": row_id, "status": status, "tokens_original": 10, "tokens_refined": 7, "tokens_scored": 30,
            "tokens_naive": 90, "source": "{}"} | values  # fmt: skip


def commit(store, shard, records, seconds=0.0):
    totals = Totals.of(REFINEMENT, len(records), records)
    totals.sums["forward_seconds"] += seconds
    return store.commit(shard, records, REFINEMENT.schema, totals)


def test_what_is_committed_is_read_back_in_order_with_its_totals(tmp_path):
    store = RecordStore(open_storage(str(tmp_path)))
    commit(store, "0000001-0000000", [record("c", "quarantined", tokens_original=None, tokens_refined=None)], 0.5)
    commit(store, "0000000-0000000", [record("a"), record("b", "unchanged")], 1.5)
    assert [row["id"] for batch in store.batches() for row in batch.to_pylist()] == ["a", "b", "c"]
    assert next(iter(store.batches())).schema.names == REFINEMENT.schema.names
    totals = store.totals()
    assert totals.as_dict() == {
        "num_rows": 3,
        "statuses": {"quarantined": 1, "refined": 1, "unchanged": 1},
        "sums": {
            "tokens_original": 20,
            "tokens_refined": 14,
            "tokens_scored": 90,
            "tokens_naive": 270,
            "forward_seconds": 2.0,
        },
    }
    assert {shard: read_ids(files, "id") for shard, files in store.files_by_shard().items()} == {
        "0000000-0000000": {"a", "b"},
        "0000001-0000000": {"c"},
    }


def test_a_file_that_was_never_finished_does_not_count(tmp_path):
    store = RecordStore(open_storage(str(tmp_path)))
    commit(store, "0000000-0000000", [record("a")])
    (tmp_path / ".0000000-0000000-0123456789ab.parquet.ffff.tmp").write_bytes(b"PAR1 half")
    assert store.totals().num_rows == 1


def test_storage_reads_fsspec_schemes_and_refuses_unknown_ones(tmp_path):
    storage = open_storage("memory://corpora/a.txt")
    storage.write_bytes(b"x")
    assert storage.read_bytes() == b"x"
    with pytest.raises(ValueError, match="cannot open 'nosuch://x'"):
        open_storage("nosuch://x")


def test_list_files_takes_a_file_a_folder_or_a_glob(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "sub/c.parquet", ".hidden.jsonl", "_tmp/d.jsonl", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1234")

    def names(uri):
        return [(s.path.removeprefix(f"{tmp_path}/"), size) for s, size in list_files(uri, (".jsonl", ".parquet"))]

    assert names(str(tmp_path / "a.jsonl")) == [("a.jsonl", 4)]
    assert names(str(tmp_path)) == [("a.jsonl", 4), ("b.jsonl", 4), ("sub/c.parquet", 4)]
    assert names(f"{tmp_path}/*.jsonl") == [("a.jsonl", 4), ("b.jsonl", 4)]
    with pytest.raises(ValueError, match="no such file or folder"):
        names(str(tmp_path / "missing"))
    with pytest.raises(ValueError, match=r"holds no file that ends in .jsonl, .parquet; found .*e.txt"):
        names(f"{tmp_path}/*.txt")
