import pyarrow as pa
import pytest

from actors.errors import SessionLost
from actors.runs.commits import CommitWriter
from actors.runs.folder import open_run_folder
from actors.runs.merging import merge, run_merge
from actors.runs.record_kinds import REFINEMENT
from actors.runs.records import RecordStore, ShardIds, commit_of, write_records
from actors.runs.session import begin_session, check_session
from actors.runs.storage import list_files, open_storage
from actors.runs.totals import Totals
from tests.fixtures import flaky


def record(row_id, status="refined", **values):
    return {"id": row_id, "status": status, "tokens_original": 10, "tokens_refined": 7, "tokens_scored": 30,
            "tokens_naive": 90, "source": "{}"} | values  # fmt: skip


def commit(run, shard, records, seconds=0.0, is_written=True):
    totals = Totals.of(REFINEMENT, len(records), records)
    totals.sums["forward_seconds"] += seconds
    entry = commit_of(shard, totals)
    run.commit_logs.make_folder()
    CommitWriter(run.commit_logs, "s").announce([entry])
    if is_written:
        write_records(run.committed, entry, pa.Table.from_pylist(records, schema=REFINEMENT.schema))
    return entry


def merged(run):
    return merge(run, REFINEMENT, lambda tasks: [task() for task in tasks])


def ids(run):
    return [row["id"] for batch in RecordStore(run).batches() for row in batch.to_pylist()]


def test_what_is_committed_is_read_back_in_order_with_its_totals(tmp_path):
    run = open_run_folder(str(tmp_path))
    commit(run, "0000001-0000000", [record("c", "quarantined", tokens_original=None, tokens_refined=None)], 0.5)
    commit(run, "0000000-0000000", [record("a"), record("b", "unchanged")], 1.5)
    store = RecordStore(run)
    assert ids(run) == ["a", "b", "c"]
    assert next(iter(store.batches())).schema.names == REFINEMENT.schema.names
    expected = {
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
    assert store.totals().as_dict() == expected
    known = ShardIds(run.committed, "id")
    assert [known.of(f"000000{file}-0000000") for file in range(3)] == [{"a", "b"}, {"c"}, set()]
    commit(run, "0000000-0000000", [record("d")])
    assert known.of("0000000-0000000") == {"a", "b", "d"}
    assert len(store.commits()) == 3


def test_the_merged_files_hold_every_row_once(tmp_path):
    run = open_run_folder(str(tmp_path))
    commit(run, "0000001-0000000", [record("c")], 0.5)
    commit(run, "0000000-0000000", [record("a"), record("b", "unchanged")], 1.5)
    commit(run, "0000000-0000000", [record("b", "unchanged"), record("e")], 1.0)
    commit(run, "0000002-0000000", [record("lost")], is_written=False)
    run.rows.make_folder()
    (run.rows / "part-00007.parquet").write_bytes(b"of a merge that was killed")
    totals = merged(run)
    assert sorted(ids(run)) == ["a", "b", "c", "e"]
    assert ids(run)[-1] == "c"
    assert [file.name for file in RecordStore(run).files()] == ["part-00000.parquet"]
    assert (
        totals.as_dict()
        == RecordStore(run).totals().as_dict()
        == {
            "num_rows": 4,
            "statuses": {"refined": 3, "unchanged": 1},
            "sums": {
                "tokens_original": 40,
                "tokens_refined": 28,
                "tokens_scored": 120,
                "tokens_naive": 360,
                "forward_seconds": 3.0,
            },
        }
    )
    assert len(RecordStore(run).commits()) == 3


def test_large_runs_end_in_several_files_that_keep_shards_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("actors.runs.merging.TARGET_BYTES", 1)
    run = open_run_folder(str(tmp_path))
    for number in range(3):
        for half in "ab":
            commit(run, f"000000{number}-0000000", [record(f"{number}{half}")])
    merged(run)
    assert [file.name for file in RecordStore(run).files()] == [f"part-0000{number}.parquet" for number in range(3)]
    assert [row_id[0] for row_id in ids(run)] == list("001122")


def test_a_merge_that_another_command_has_taken_over_writes_no_end(tmp_path):
    run = open_run_folder(str(tmp_path))
    begin_session(run, "s")
    commit(run, "0000000-0000000", [record("a")])

    def run_all(tasks):
        begin_session(run, "other")
        return [task() for task in tasks]

    with pytest.raises(SessionLost):
        merge(run, REFINEMENT, run_all, lambda: check_session(run, "s"))
    assert not run.rows_done.exists()
    assert not RecordStore(run).is_whole


def test_a_merge_is_repeated_when_the_storage_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(flaky, "EVERY", 7)
    flaky.register()
    run = open_run_folder(f"flaky://{tmp_path}")
    commit(run, "0000000-0000000", [record("a")])
    commit(run, "0000000-0000001", [record("b")])
    merge(run.patient(), REFINEMENT, lambda tasks: [run_merge(task) for task in tasks])
    assert ids(run) == ["a", "b"]


def test_a_session_recovers_what_earlier_ones_committed(tmp_path):
    run = open_run_folder(str(tmp_path))
    kept = [commit(run, "0000000-0000000", [record("a")]), commit(run, "0000001-0000000", [record("b")])]
    commit(run, "0000002-0000000", [record("lost")], is_written=False)
    (tmp_path / "_rows" / "0000000-0000000" / ".x.parquet.ffff.tmp").write_bytes(b"PAR1 half")
    for log in (tmp_path / "_commits").iterdir():
        if kept[1].file in log.read_text():
            log.unlink()  # its entry is in the footer too
    found = RecordStore(run).recover("next")
    assert sorted(found, key=lambda each: each.file) == kept
    assert RecordStore(run).totals().num_rows == 2
    assert [log.name for log in (tmp_path / "_commits").iterdir()] == ["next-all.jsonl"]
    assert not list(tmp_path.rglob("*.tmp"))


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
