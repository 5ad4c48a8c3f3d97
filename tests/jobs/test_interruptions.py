"""Commands that are killed or stopped: nothing committed is done again, and nothing is lost."""

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter

import pytest

from actors.runs.folder import open_run_folder
from actors.runs.records import RecordStore
from tests.fixtures import flaky
from tests.fixtures.runs import (
    command,
    committed,
    kill_all,
    records,
    refine_with_table,
    report,
    start,
    wait_for,
    write_problems,
    write_questions,
)

TEMPLATE = "Q: {question}\nA:"


def begun(log):
    """How often each row was begun, over all processes."""
    return Counter(line for path in log.iterdir() for line in path.read_text().splitlines())


@pytest.mark.usefixtures("ray_session")
def test_a_run_on_a_storage_that_fails_now_and_then_loses_nothing(tmp_path):
    flaky.register()
    write_problems(tmp_path / "c.jsonl", 200)
    assert refine_with_table(input=f"flaky://{tmp_path}/c.jsonl", output=f"flaky://{tmp_path}/run") == 0
    assert len(records(tmp_path / "run")) == report(tmp_path / "run")["rows"]["total"] == 200


@pytest.mark.usefixtures("ray_session")
def test_a_run_survives_the_death_of_an_actor(tmp_path):
    source = write_problems(tmp_path / "c.jsonl", 400)
    log = tmp_path / "log"
    log.mkdir()

    def kill():
        busy = wait_for_rows(log, 30)
        os.kill(int(busy.stem), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    flags = {"input": str(source), "output": str(tmp_path / "run"), "num_actors": "2"}
    assert refine_with_table(0.05, 2048, str(log), **flags) == 0
    killer.join()
    assert len(records(tmp_path / "run")) == 400
    assert report(tmp_path / "run")["rows"]["quarantined"] == 0
    assert len(list(log.iterdir())) == 3, "two actors, and the one that replaced the dead one"


def wait_for_rows(log, count):
    """The log of the first actor that has begun `count` rows."""
    busy = []
    wait_for(lambda: busy.extend(each for each in log.iterdir() if len(each.read_text().splitlines()) > count) or busy)
    return busy[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_five_times_loses_nothing_and_repeats_nothing_committed(tmp_path):
    source = write_problems(tmp_path / "c.jsonl", 2000)
    log, output = tmp_path / "log", tmp_path / "run"
    log.mkdir()
    chance = random.Random(11)
    args = ["tests.fixtures.table_refine", log, 0.005, "--input", source, "--output", output,
            "--t1", 1.0, "--unmerged", "drop"]  # fmt: skip
    redone_allowed = Counter()
    for _ in range(5):
        already = len(committed(output))
        job = start(*args)
        wait_for(lambda before=already: len(committed(output)) > before, job)
        time.sleep(chance.uniform(0, 6))
        kill_all(job)
        done = {f"#{row_id.split(':')[1]}" for row_id in records(output)}
        before = begun(log)
        redone_allowed.update(row for row in before if row not in done)
        for row in done:
            redone_allowed[row] = before[row] - 1  # a committed row is never begun again
    assert 0 < len(records(output)) < 2000, "everything was done before the fifth kill: slow the scorer down"
    last = start(*args, stderr=subprocess.PIPE)
    _, errors = last.communicate()
    assert last.returncode == 0, errors
    assert set(records(output)) == {f"c.jsonl:{number}" for number in range(2000)}
    assert report(output)["rows"]["quarantined"] == 0
    assert report(output)["sessions"] == 6
    for row, times in begun(log).items():
        assert times - 1 <= redone_allowed[row], f"row {row} was committed and done again"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sampling_run_ends_with_the_same_samples(tmp_path, byte_model):
    questions = write_questions(tmp_path / "q.jsonl", 48, {5: "x" * 5000})
    args = ["jobs.sample", "--input", questions, "--model", byte_model, "--template", TEMPLATE, "--num-samples", 2,
            "--max-tokens", 40, "--max-batch", 4, "--temperature", 1.0]  # fmt: skip
    whole = command(*args, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    job = start(*args, "--output", tmp_path / "killed")
    wait_for(lambda: committed(tmp_path / "killed"), job)
    kill_all(job)
    before = set(committed(tmp_path / "killed"))
    assert 0 < len(records(tmp_path / "killed")) < 48
    again = command(*args, "--output", tmp_path / "killed")
    assert again.returncode == 0, again.stderr
    history = RecordStore(open_run_folder(str(tmp_path / "killed"))).commits()
    assert {path.name for path in before} < {commit.file.split("/")[1] for commit in history}
    assert texts(tmp_path / "killed") == texts(tmp_path / "whole")
    assert records(tmp_path / "whole")["q.jsonl:5"]["reason"].startswith("too_long")
    assert report(tmp_path / "killed")["sessions"] == 2


def texts(output):
    """The texts of all samples by id."""
    return {row_id: [each["text"] for each in row["samples"] or []] for row_id, row in records(output).items()}


@pytest.mark.parametrize("stop", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_stopped_command_prints_one_line_and_exits_with_130(tmp_path, stop):
    source = write_problems(tmp_path / "c.jsonl", 2000)
    job = start("tests.fixtures.table_refine", tmp_path, 0.05, "--input", source, "--output", tmp_path / "run",
                "--unmerged", "drop", stderr=subprocess.PIPE)  # fmt: skip
    wait_for(lambda: committed(tmp_path / "run"), job)
    job.send_signal(stop)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 130
    assert errors.strip().splitlines()[-1] == "table_refine: interrupted; repeat the command to resume"
    assert "Stack trace" not in errors
    assert "Traceback" not in errors


@pytest.mark.usefixtures("ray_session")
def test_a_command_joins_the_cluster_at_ray_address(tmp_path):
    import ray

    source = write_problems(tmp_path / "c.jsonl", 30)
    address = ray.get_runtime_context().gcs_address
    done = command(
        "tests.fixtures.table_refine", tmp_path, 0, "--input", source, "--output", tmp_path / "run", "--unmerged",
        "drop", env=os.environ | {"RAY_ADDRESS": address},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "run")) == 30
