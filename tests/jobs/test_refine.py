"""Whole runs on Ray: every row gets one record, whatever is in it and whoever is killed."""

import base64
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import refine
from jobs.driver import command as driver_command
from jobs.driver.command import UserError
from tests.fixtures.runs import ROOT, command, records, refine_with_table, report, wait_for, write_problems
from tests.fixtures.table_scorer import POISON

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_run_from_start_to_report(tmp_path, capsys):
    source = write_problems(tmp_path / "c.jsonl", 300, level=3)
    assert refine_with_table(input=str(source), output=str(tmp_path / "run"), num_actors="2") == 0
    found = records(tmp_path / "run")
    assert set(found) == {f"c.jsonl:{number}" for number in range(300)}
    given = [json.loads(line) for line in source.read_text().splitlines()]
    for number, row in enumerate(given):
        record = found[f"c.jsonl:{number}"]
        assert (record["question"], record["steps"], record["answer"]) == (row["question"], row["steps"], row["answer"])
        assert record["source"] == '{"level": 3}'
        assert record["refined_steps"][-1] == row["steps"][-1]
        # Replaying the edits turns the steps into the refined steps.
        steps = list(record["steps"])
        for edit in record["edits"]:
            assert steps.pop(edit["index"]) == edit["before"]
        assert steps == record["refined_steps"]
    facts = report(tmp_path / "run")
    assert facts["rows"]["total"] == 300
    assert facts["rows"] == {"total": 300, "quarantined": 0} | Counter(row["status"] for row in found.values())
    assert facts["steps_removed"] == sum(len(row["edits"]) for row in found.values())
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<article>") == 12
    assert page.count("<svg") == 4
    assert "<del>" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert not (tmp_path / "run" / "_journal").exists()
    assert "300 rows" in capsys.readouterr().out


def test_a_finished_run_is_not_done_again_and_its_report_can_be(tmp_path, capsys):
    source = write_problems(tmp_path / "c.jsonl", 20)
    flags = {"input": str(source), "output": str(tmp_path / "run")}
    assert refine_with_table(**flags) == 0
    before = sorted((tmp_path / "run" / "rows").iterdir())
    assert refine_with_table(**flags) == 0
    assert "finished already" in capsys.readouterr().out
    assert sorted((tmp_path / "run" / "rows").iterdir()) == before
    (tmp_path / "run" / "report.html").unlink()
    again = command("jobs.report", tmp_path / "run")
    assert (again.returncode, again.stderr) == (0, "")
    assert "20: " in again.stdout
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("change", [{"t1": 0.9}, {"limit": 10}, {"scope": "full"}, "input"])
def test_another_run_may_not_go_on_in_a_folder(tmp_path, change):
    source = write_problems(tmp_path / "c.jsonl", 20)
    flags = {"input": str(source), "output": str(tmp_path / "run")}
    assert refine_with_table(**flags) == 0
    if change == "input":
        write_problems(source, 21)
        change = {}
    key = next(iter(change), "input")
    with pytest.raises(UserError, match=f"belongs to another run: .*{key}"):
        refine_with_table(**flags | change)
    # What does not change results may differ.
    if key != "input":
        assert refine_with_table(**flags, num_actors="2") == 0


GOOD = {"question": "How many?", "steps": ["First there is 1.", "Then there are 2.", "The answer is 2."], "answer": "2"}
BROKEN = {
    "null": json.dumps(GOOD | {"question": None}),
    "number": json.dumps(GOOD | {"question": 5}),
    "no steps": json.dumps(GOOD | {"steps": []}),
    "empty answer": json.dumps(GOOD | {"answer": ""}),
    "utf-8": b'{"question": "\xff\xfe", "steps": ["a"], "answer": "1"}',
    "truncated": json.dumps(GOOD)[:40],
    "nested": json.dumps({"question": {"a": [[{}]]}, "steps": {"b": [1]}, "answer": [None]}),
    "surrogate": '{"question": "half \\ud83d", "steps": ["a"], "answer": "1"}',
    "duplicate": json.dumps(GOOD | {"key": "k10"}),
    "poison": json.dumps(GOOD | {"question": POISON}),
}
REASONS = {
    "null": "null_field", "number": "wrong_type", "no steps": "no_steps", "empty answer": "empty_field",
    "utf-8": "invalid_utf8", "truncated": "invalid_json", "nested": "wrong_type", "surrogate": "invalid_unicode",
    "duplicate": "duplicate_id", "poison": "kills_the_process",
}  # fmt: skip


def write_broken(path, count=500):
    """One row in fifty is broken, each in its own way; the rows that are, by number."""
    kinds = list(BROKEN)
    lines, broken = [], {}
    for number in range(count):
        if number % 50 == 25:
            broken[number] = kinds[number // 50 % len(kinds)]
            line = BROKEN[broken[number]]
            if isinstance(line, str) and line.endswith("}") and '"key"' not in line:
                line = line[:-1] + f', "key": "k{number}"}}'
        else:
            line = json.dumps(GOOD | {"key": f"k{number}", "question": f"How many are {number}?"})
        lines.append(line if isinstance(line, bytes) else line.encode())
    path.write_bytes(b"\n".join(lines))
    return broken


def test_a_broken_corpus_loses_nothing_and_every_reason_is_right(tmp_path, capsys):
    broken = write_broken(tmp_path / "c.jsonl")
    assert len(broken) == 10
    flags = {"input": str(tmp_path / "c.jsonl"), "output": str(tmp_path / "run"), "id_column": "key"}
    assert refine_with_table(**flags) == 0
    found = records(tmp_path / "run")
    assert len(found) == 500
    without_id = ("utf-8", "truncated", "duplicate")
    for number, kind in broken.items():
        record = found[f"c.jsonl:{number}:no-id" if kind in without_id else f"k{number}"]
        assert (record["status"], record["reason"].split(":")[0]) == ("quarantined", REASONS[kind]), kind
    assert report(tmp_path / "run")["rows"]["quarantined"] == 10
    assert report(tmp_path / "run")["quarantined_by_reason"] == dict(Counter(REASONS.values()))
    # The rest of the poisonous row's batch is refined, and a resume says the same.
    assert sum(row["status"] != "quarantined" for row in found.values()) == 490
    capsys.readouterr()
    assert refine_with_table(**flags, max_quarantined="1%") == 1
    complaint = capsys.readouterr().err.splitlines()
    assert len(complaint) == 1
    assert "10 of 500 rows are quarantined" in complaint[0]
    assert "more than --max-quarantined 1% allows" in complaint[0]
    assert refine_with_table(**flags, max_quarantined="2%") == 0
    assert refine_with_table(**flags, max_quarantined="9") == 1


def test_parquet_in_several_files_keeps_all_columns(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for part in range(3):
        rows = [{**GOOD, "n": part * 10 + number, "empty": None} for number in range(10)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{part}.parquet")
    assert refine_with_table(input=f"{folder}/*.parquet", output=str(tmp_path / "run"), num_actors="1:2") == 0
    found = records(tmp_path / "run")
    assert {row_id: json.loads(row["source"]) for row_id, row in found.items()} == {
        f"{part}.parquet:{number}": {"n": part * 10 + number, "empty": None}
        for part in range(3)
        for number in range(10)
    }


def test_a_dry_run_projects_and_keeps_nothing(tmp_path, capsys):
    source = write_problems(tmp_path / "c.jsonl", 200)
    flags = {"input": str(source), "output": str(tmp_path / "run"), "gpus_per_actor": 0.0}
    assert refine_with_table(0.05, **flags, dry_run=20) == 0
    text = capsys.readouterr().out
    assert "dry run: 20 of 200 rows" in text
    assert "projected time" in text
    assert "cost" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl"]


def test_one_actor_killed_in_the_middle_is_survived(tmp_path):
    source = write_problems(tmp_path / "c.jsonl", 400)
    log = tmp_path / "log"
    log.mkdir()
    killer = subprocess.Popen([sys.executable, "-c", KILLER, str(log)])
    status = refine_with_table(0.05, 2048, str(log), input=str(source), output=str(tmp_path / "run"), num_actors="2")
    assert killer.wait() == 0, "the killer found nobody to kill"
    assert status == 0
    assert len(records(tmp_path / "run")) == 400
    assert report(tmp_path / "run")["rows"]["quarantined"] == 0
    assert len(list(log.iterdir())) == 3  # two actors, and the one that came after


# Waits until an actor has begun some rows, then kills its process.
KILLER = """
import os, pathlib, sys, time
for _ in range(600):
    busy = [log for log in pathlib.Path(sys.argv[1]).glob("*.log") if len(log.read_text().splitlines()) > 30]
    if busy:
        os.kill(int(busy[0].stem), 9)
        sys.exit(0)
    time.sleep(0.1)
sys.exit(1)
"""


def begun(log):
    """How often each row was begun, over all processes."""
    return Counter(line for path in log.iterdir() for line in path.read_text().splitlines())


@pytest.mark.timeout(900)
def test_everything_killed_five_times_loses_nothing_and_repeats_nothing_committed(tmp_path):
    source = write_problems(tmp_path / "c.jsonl", 2000)
    log = tmp_path / "log"
    log.mkdir()
    chance = random.Random(11)
    args = [sys.executable, "-m", "tests.fixtures.table_refine", str(log), "0.005", "--input", str(source),
            "--output", str(tmp_path / "run"), "--t1", "1.0", "--merge", "drop"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    redone_allowed = Counter()
    for _ in range(5):
        already = len(committed(tmp_path / "run"))
        job = subprocess.Popen(args, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda before=already: len(committed(tmp_path / "run")) > before, job)
        time.sleep(chance.uniform(0, 6))
        kill_all(job)
        done = {f"#{row_id.split(':')[1]}" for row_id in records(tmp_path / "run")}
        before = begun(log)
        redone_allowed.update(row for row in before if row not in done)
        for row in done:
            redone_allowed[row] = before[row] - 1  # what is committed is never begun again
    assert 0 < len(records(tmp_path / "run")) < 2000, "all was done before the fifth kill: slow the scorer down"
    last = subprocess.run(args, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    assert set(records(tmp_path / "run")) == {f"c.jsonl:{number}" for number in range(2000)}
    assert report(tmp_path / "run")["rows"]["quarantined"] == 0
    assert report(tmp_path / "run")["sessions"] == 6
    for row, times in begun(log).items():
        assert times - 1 <= redone_allowed[row], f"row {row} was committed and done again"


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_stopped_says_one_line_and_goes_on_later(tmp_path, stop):
    source = write_problems(tmp_path / "c.jsonl", 2000)
    args = [sys.executable, "-m", "tests.fixtures.table_refine", str(tmp_path), "0.05", "--input", str(source),
            "--output", str(tmp_path / "run"), "--merge", "drop"]  # fmt: skip
    job = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: committed(tmp_path / "run"), job)
    job.send_signal(stop)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130
    assert said.strip().splitlines()[-1] == "table_refine: interrupted; the same command goes on where it stopped"
    assert "Stack trace" not in said
    assert "Traceback" not in said


def committed(run):
    return list((run / "rows").glob("*.parquet")) if (run / "rows").exists() else []


def kill_all(job):
    """kill -9 the driver and everything below it: raylet, workers, actors."""
    family = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    for process in family:
        with_suppressed_absence(process)
    psutil.wait_procs(family, timeout=10)
    job.wait()


def with_suppressed_absence(process):
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


def test_the_same_code_is_the_entrypoint_of_a_submitted_job(tmp_path, monkeypatch):
    import ray

    source = write_problems(tmp_path / "c.jsonl", 30)
    address = ray.get_runtime_context().gcs_address
    done = command(
        "tests.fixtures.table_refine", tmp_path, 0, "--input", source, "--output", tmp_path / "run", "--merge", "drop",
        env=os.environ | {"RAY_ADDRESS": address},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "run")) == 30


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--t1", "1.3", "--t2", "1.2"], "t1=1.3 and t2=1.2"),
        (["--num-actors", "4:2"], "--num-actors '4:2': must be N or MIN:MAX"),
        (["--max-quarantined", "200%"], "--max-quarantined '200%'"),
        (["--price-per-gpu-hour", "2"], "needs --dry-run"),
        (["--scope", "suffix", "--reference", "original"], "reference must be current"),
        (["--limit", "0"], "--limit 0: Input should be greater than or equal to 1"),
        (["--scope", "everything"], "everything"),
        (["--no-such-flag"], "no-such-flag"),
        (["--t1", "low"], "low"),
        (["--config", "/nowhere.yaml"], "--config /nowhere.yaml cannot be read"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_one_line(flags, complaint):
    with pytest.raises(UserError) as error:
        driver_command.parse(refine.RefineConfig, ["--input", "i", "--output", "o", *flags], "", refine.recipe_defaults)
    assert complaint in " ".join(str(error.value).split())


def refuses(*args, **kwargs):
    raise ValueError("model 'm' cannot be scored exactly: use another")


def test_what_an_actor_refuses_is_one_line_too(tmp_path):
    source = write_problems(tmp_path / "c.jsonl", 5)
    config = refine.RefineConfig.model_validate({"input": str(source), "output": str(tmp_path / "run")})
    with pytest.raises(UserError, match="model 'm' cannot be scored exactly: use another"):
        refine.run(config, refuses)


def test_a_config_file_is_overruled_by_flags_and_overrules_recipes(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("input: i\noutput: o\nrecipe: digest\nt2: 1.5\nnum-actors: '2:4'\n")
    config = driver_command.parse(
        refine.RefineConfig, ["--config", str(path), "--no-protect-answer", "--t1", "0.8"], "", refine.recipe_defaults
    )
    assert (config.t1, config.t2, config.scope, config.merge) == (0.8, 1.5, "full", "drop")
    assert config.actor_range == (2, 4)
    path.write_text("input: i\noutput: o\nt3: 1\n")
    with pytest.raises(UserError, match="unknown key 't3'"):
        driver_command.parse(refine.RefineConfig, ["--config", str(path)], "", refine.recipe_defaults)
    path.write_text("input: i\noutput: o\nt1: low\n")
    with pytest.raises(UserError, match="--t1 'low'"):
        driver_command.parse(refine.RefineConfig, ["--config", str(path)], "", refine.recipe_defaults)


def test_inputs_and_outputs_that_cannot_be_are_refused(tmp_path, byte_model):
    source = write_problems(tmp_path / "c.jsonl", 5)
    output = str(tmp_path / "run")

    def refuse(complaint, **flags):
        config = refine.RefineConfig.model_validate({"input": str(source), "output": output} | flags)
        with pytest.raises(UserError, match=complaint):
            refine.run(config)

    refuse("no such file or folder: .*missing", input=str(tmp_path / "missing.jsonl"))
    refuse("cannot open 'nosuch://", input="nosuch://bucket/x.jsonl")
    refuse("no column 'prompt' in c.jsonl, which has answer, question, steps", columns={"question": "prompt"})
    refuse("no column 'key' in c.jsonl.*--id-column", id_column="key")
    refuse("reads no solution; it reads question, steps, answer", columns={"solution": "x"})
    refuse("no column 'problem'", format="math")
    (tmp_path / "c.jsonl.gz").write_bytes(b"no gzip")
    refuse("c.jsonl.gz cannot be read", input=str(tmp_path / "c.jsonl.gz"))
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    refuse("c.parquet cannot be read", input=str(tmp_path / "c.parquet"))
    refuse("--split newline does nothing", split="newline")
    refuse("not a regular expression", format="text", columns={"solution": "answer"}, split="regex:(")
    refuse("does not exist", model=str(tmp_path / "nowhere"))
    refuse("model 'nobody/nothing' cannot be loaded", model="nobody/nothing")
    refuse("this machine has 0 GPUs", model=byte_model, gpus_per_actor=1.0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("x")
    refuse("holds files that are no run of Sluice", model=byte_model, output=str(tmp_path / "other"))
    refuse("cannot write to output", model=byte_model, output="/proc/nobody/writes/here")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("127.0.0.1:1", "no Ray answers at RAY_ADDRESS=127.0.0.1:1"),
        ("http://127.0.0.1:8265", "is a dashboard"),
        ("somewhere", "is no address"),
    ],
)
def test_a_person_sees_one_line_and_exit_status_2(tmp_path, address, complaint, byte_model):
    source = write_problems(tmp_path / "c.jsonl", 5)
    done = command(
        "jobs.refine", "--input", source, "--output", tmp_path / "run", "--model", byte_model,
        env=os.environ | {"RAY_ADDRESS": address},
    )  # fmt: skip
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_bytes_of_ids_survive(tmp_path):
    # Ids from a column may be anything that is text; they come back as they went in.
    ids = ["a/b", "x y", "é", base64.b64encode(b"\x00").decode()]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(GOOD | {"key": each}) for each in ids))
    assert refine_with_table(input=str(tmp_path / "c.jsonl"), output=str(tmp_path / "run"), id_column="key") == 0
    assert set(records(tmp_path / "run")) == set(ids)
