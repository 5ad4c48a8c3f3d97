"""Runs of `jobs.refine` on Ray with a table scorer: every row gets one record, whatever is in it."""

import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import UserError
from jobs import refine
from tests.fixtures.runs import EXAMPLES, reasons, records, refine_with_table, report, write_lines, write_problems
from tests.fixtures.table_scorer import POISON

pytestmark = pytest.mark.usefixtures("ray_session")

GOOD = {"question": "How many?", "steps": ["First there is 1.", "Then there are 2.", "The answer is 2."], "answer": "2"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_session):
    """The folder of a finished run of two actors over 300 problems, with its corpus beside it."""
    folder = tmp_path_factory.mktemp("refine")
    source = write_problems(folder / "c.jsonl", 300, level=3)
    assert refine_with_table(input=str(source), output=str(folder / "run"), num_actors="2") == 0
    return folder / "run"


def test_every_row_gets_one_record_with_its_columns(finished):
    given = map(json.loads, (finished.parent / "c.jsonl").read_text().splitlines())
    columns = ("question", "steps", "answer", "source")
    assert {row_id: {name: row[name] for name in columns} for row_id, row in records(finished).items()} == {
        f"c.jsonl:{number}": {name: row[name] for name in columns[:3]} | {"source": '{"level": 3}'}
        for number, row in enumerate(given)
    }


def test_the_edits_turn_the_steps_into_the_refined_steps(finished):
    for record in records(finished).values():
        steps = list(record["steps"])
        for edit in record["edits"]:
            assert steps.pop(edit["index"]) == edit["before"]
        assert steps == record["refined_steps"]
        assert steps[-1] == record["steps"][-1], "the step that states the answer is protected"


def test_the_report_counts_the_records(finished):
    found = records(finished).values()
    facts = report(finished)
    assert facts["rows"] == {"total": 300, "quarantined": 0} | Counter(row["status"] for row in found)
    assert facts["steps_removed"] == sum(len(row["edits"]) for row in found) > 0


def test_the_page_is_whole_without_a_network(finished):
    page = (finished / "report.html").read_text()
    assert (page.count("<article>"), page.count("<svg"), "<del>" in page) == (12, 4, True)
    for name in ("www.w3.org", "purl.org", "creativecommons.org", "matplotlib.org"):  # of namespaces in SVG
        page = page.replace(f"http://{name}", "").replace(f"https://{name}", "")
    assert "http" not in page


def test_a_finished_run_leaves_nothing_of_its_work(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "commits.jsonl", "manifest.json", "report.html", "report.json", "rows",
    ]  # fmt: skip
    assert sorted(path.name for path in (finished / "rows").iterdir()) == ["_whole.json", "part-00000.parquet"]


def test_a_finished_run_is_not_done_again(tmp_path, capsys):
    source = write_problems(tmp_path / "c.jsonl", 20)
    flags = {"input": str(source), "output": str(tmp_path / "run")}
    assert refine_with_table(**flags) == 0
    assert "20: " in capsys.readouterr().out
    before = sorted((tmp_path / "run" / "rows").iterdir())
    assert refine_with_table(**flags, num_actors="2") == 0  # what does not change results may differ
    assert "is already finished" in capsys.readouterr().out
    assert sorted((tmp_path / "run" / "rows").iterdir()) == before


@pytest.mark.parametrize("change", [{"t1": 0.9}, {"limit": 10}, {"scope": "full"}, {"input": "another corpus"}])
def test_another_run_is_refused_in_the_folder(finished, change):
    source = finished.parent / "c.jsonl"
    if "input" in change:
        source = change["input"] = str(write_problems(finished.parent / "other.jsonl", 21))
    flags = {"input": str(source), "output": str(finished)}
    with pytest.raises(UserError, match=f"belongs to another run: .*{next(iter(change))}"):
        refine_with_table(**flags | change)


BROKEN = {  # kind -> the line, and the reason of its quarantine
    "null": (json.dumps(GOOD | {"question": None}), "null_field"),
    "number": (json.dumps(GOOD | {"question": 5}), "wrong_type"),
    "no steps": (json.dumps(GOOD | {"steps": []}), "no_steps"),
    "empty answer": (json.dumps(GOOD | {"answer": ""}), "empty_field"),
    "utf-8": (b'{"question": "\xff\xfe", "steps": ["a"], "answer": "1"}', "invalid_utf8"),
    "truncated": (json.dumps(GOOD)[:40], "invalid_json"),
    "nested": (json.dumps({"question": {"a": [[{}]]}, "steps": {"b": [1]}, "answer": [None]}), "wrong_type"),
    "surrogate": ('{"question": "half \\ud83d", "steps": ["a"], "answer": "1"}', "invalid_unicode"),
    "duplicate": (json.dumps(GOOD | {"key": "k10"}), "duplicate_id"),
    "poison": (json.dumps(GOOD | {"question": POISON}), "kills_the_process"),
}


def write_broken(path, count=500):
    """Of 50 rows one is broken, each in its own way. Returns the reasons by id, where ids come from the column key."""
    kinds = iter(BROKEN)
    lines, expected = [], {}
    for number in range(count):
        line = json.dumps(GOOD | {"key": f"k{number}", "question": f"How many are {number}?"})
        if number % 50 == 25:
            kind = next(kinds)
            line, reason = BROKEN[kind]
            has_id = kind not in ("utf-8", "truncated", "duplicate")
            expected[f"k{number}" if has_id else f"c.jsonl:{number}:no-id"] = reason
            if has_id:
                line = line[:-1] + f', "key": "k{number}"}}'
        lines.append(line if isinstance(line, bytes) else line.encode())
    path.write_bytes(b"\n".join(lines))
    return expected


def test_broken_rows_are_quarantined_each_with_its_reason_and_the_others_refined(tmp_path, capsys):
    expected = write_broken(tmp_path / "c.jsonl")
    assert len(expected) == 10
    flags = {"input": str(tmp_path / "c.jsonl"), "output": str(tmp_path / "run"), "id_column": "key"}
    assert refine_with_table(**flags) == 0
    found = records(tmp_path / "run")
    assert len(found) == 500
    assert {row_id: row["reason"].split(":")[0] for row_id, row in found.items() if row["status"] == "quarantined"} == (
        expected
    )
    assert report(tmp_path / "run")["quarantined_by_reason"] == dict(Counter(expected.values()))

    capsys.readouterr()
    assert refine_with_table(**flags, max_quarantined="1%") == 1
    [complaint] = capsys.readouterr().err.splitlines()
    assert complaint.startswith("refine: 10 of 500 rows are quarantined (")
    assert complaint.endswith("), more than --max-quarantined 1% allows")
    assert refine_with_table(**flags, max_quarantined="2%") == 0
    assert refine_with_table(**flags, max_quarantined="9") == 1


def test_parquet_in_several_files_keeps_all_columns(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for part in range(3):
        rows = [{**GOOD, "n": part * 10 + number, "empty": None} for number in range(10)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{part}.parquet")
    assert refine_with_table(input=f"{folder}/*.parquet", output=str(tmp_path / "run"), num_actors="1:2") == 0
    assert {row_id: json.loads(row["source"]) for row_id, row in records(tmp_path / "run").items()} == {
        f"{part}.parquet:{number}": {"n": part * 10 + number, "empty": None}
        for part in range(3)
        for number in range(10)
    }


def test_ids_of_a_column_come_back_as_they_were(tmp_path):
    ids = ["a/b", "x y", "é", "AAE="]
    write_lines(tmp_path / "c.jsonl", [GOOD | {"key": each} for each in ids])
    assert refine_with_table(input=str(tmp_path / "c.jsonl"), output=str(tmp_path / "run"), id_column="key") == 0
    assert set(records(tmp_path / "run")) == set(ids)


@pytest.mark.parametrize("name", ["steps", "gsm8k", "math", "chat"])
def test_the_examples_are_refined_without_a_quarantined_row(tmp_path, name):
    given = EXAMPLES / f"{name}.jsonl"
    assert refine_with_table(input=str(given), output=str(tmp_path / "run"), format=name) == 0
    assert report(tmp_path / "run")["rows"]["total"] == len(given.read_text().splitlines())
    assert set(reasons(tmp_path / "run").values()) <= {"one_step", "all_critical", "nothing_removable"}


def test_a_scorer_on_several_gpus_is_refused():
    with pytest.raises(ValueError, match="--gpus-per-actor 2: a scorer computes on one GPU"):
        refine.RefineConfig(input="c.jsonl", output="run", gpus_per_actor=2)


def test_a_dry_run_projects_and_keeps_nothing(tmp_path, capsys):
    source = write_problems(tmp_path / "c.jsonl", 200)
    flags = {"input": str(source), "output": str(tmp_path / "run"), "gpus_per_actor": 0.0}
    assert refine_with_table(0.05, **flags, dry_run=20) == 0
    first, *projected = capsys.readouterr().out.splitlines()
    assert first.startswith("dry run: 20 of 200 rows")
    names = ["projected time", "tokens to score", "tokens to save"]
    assert [line[:20].strip() for line in projected] == names  # and no cost without a price
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def cannot_score():
    raise UserError("model 'm' cannot be scored exactly: use another")


def test_a_users_mistake_that_a_worker_finds_is_raised_on_the_driver(tmp_path):
    source = write_problems(tmp_path / "c.jsonl", 5)
    config = refine.RefineConfig.model_validate({"input": str(source), "output": str(tmp_path / "run")})
    with pytest.raises(UserError, match="model 'm' cannot be scored exactly: use another"):
        refine.run(config, cannot_score)
