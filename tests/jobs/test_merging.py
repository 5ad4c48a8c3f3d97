"""Runs of `jobs.refine` that merge, with a table scorer and a real endpoint; and the control."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from actors.errors import UserError
from actors.runs.folder import open_run_folder
from jobs import refine
from jobs.driver import command
from tests.fixtures.merge_endpoint import merge_endpoint
from tests.fixtures.runs import ROOT, kill_all, records, refine_with_table, report, wait_for, write_lines

STEPS = ["Look at the numbers.", "Look at the numbers once more.", "So it is done."]


def write_corpus(path, count):
    """Rows whose steps share words, so that the longer of two steps is a faithful merge."""
    return write_lines(
        path,
        [
            {"question": f"What is {number}?", "steps": [*STEPS, f"The answer is {number}."], "answer": str(number)}
            for number in range(count)
        ],
    )


def flags_of(url, source, output, **flags):
    merging = {"merge": "openai", "merge_url": url, "merge_model": "m", "merge_patience": 1.0}
    bounds = {"t1": 0.5, "t2": 9.0, "unmerged": "keep"}
    return {"input": str(source), "output": str(output), **merging, **bounds, **flags}


def outcomes(output):
    return Counter(merge["outcome"] for record in records(output).values() for merge in record["merges"])


@pytest.mark.usefixtures("ray_session")
def test_merges_are_made_counted_and_told(tmp_path, capsys):
    source = write_corpus(tmp_path / "c.jsonl", 40)
    with merge_endpoint() as server:
        assert refine_with_table(**flags_of(server.url, source, tmp_path / "run", control=40)) == 0
    found = outcomes(tmp_path / "run")
    facts = report(tmp_path / "run")
    assert facts["merges"] == {"tried": found.total(), "accepted": found["accepted"], "by_outcome": dict(found)}
    assert facts["steps_merged"] == found["accepted"] > 0
    assert facts["steps_removed"] + facts["steps_merged"] == sum(
        len(record["edits"]) for record in records(tmp_path / "run").values()
    )
    told = capsys.readouterr().out
    assert f"{found['accepted']} of {found.total()} merges accepted" in told
    assert "control     40 rows: " in told
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Merges</h2>" in page
    assert "removed at random" in page
    assert not open_run_folder(str(tmp_path / "run")).replies.exists()  # they went with the other temporary files


@pytest.mark.usefixtures("ray_session")
def test_an_endpoint_that_dies_in_the_middle_loses_no_row(tmp_path):
    source = write_corpus(tmp_path / "c.jsonl", 60)
    with merge_endpoint() as server:
        url = server.url

        def dying(first, second):
            return (503, "text/plain", "gone") if len(server.asked) > 30 else second

        server.reply = dying
        assert refine_with_table(**flags_of(url, source, tmp_path / "run")) == 0
    assert report(tmp_path / "run")["rows"]["total"] == 60
    found = outcomes(tmp_path / "run")
    assert found["accepted"] > 0
    assert found["endpoint_down"] > 0


@pytest.mark.slow
def test_a_killed_run_asks_for_no_merge_twice(tmp_path):
    source = write_corpus(tmp_path / "c.jsonl", 120)
    output = tmp_path / "run"
    with merge_endpoint(seconds=0.15) as server:
        flags = flags_of(server.url, source, output, merge_concurrency=4)
        words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        line = [sys.executable, "-m", "tests.fixtures.table_refine", str(tmp_path), "0.01", *words]
        job = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(server.asked) > 40, job)
        kill_all(job)
        before = len(server.asked)
        assert subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, check=False).returncode == 0
        asked = Counter(server.asked)
    assert len(records(output)) == 120
    assert before < sum(asked.values())
    # Only requests on their way when the process died are asked for again.
    assert sum(count - 1 for count in asked.values()) <= 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--criterion", "best"], "--criterion"),
        (["--remove-ratio", "1.5"], "remove_ratio must lie between 0 and 1, got 1.5"),
        (["--remove-ratio", "0"], "remove_ratio must lie between 0 and 1, got 0"),
        (["--criterion", "surprisal"], "criterion 'surprisal' has no threshold: set remove_ratio"),
        (["--criterion", "random", "--remove-ratio", "0.2", "--control", "5"], "--control compares with"),
        (["--remove-ratio", "0.2", "--t1", "0.9"], "--remove-ratio takes the place of thresholds: leave out --t1"),
        (["--criterion", "pir", "--recipe", "digest"], "--recipe digest belongs to --criterion spirit"),
        (["--criterion", "pir", "--scope", "full"], "scope must be answer, got 'full'"),
        (["--merge", "openai"], "--merge openai needs --merge-url and --merge-model"),
        (["--merge", "local", "--merge-model", "m"], "--merge-model needs --merge openai"),
        (
            ["--merge", "openai", "--merge-url", "localhost", "--merge-model", "m"],
            "must begin with http:// or https://",
        ),
        (["--merge", "vllm"], "--merge"),
        (["--merge", "local", "--remove-ratio", "0.2"], "only criterion 'spirit' with thresholds merges"),
    ],
)
def test_flags_that_contradict_each_other_are_one_line(words, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as error:
        command.parse(refine.RefineConfig, ["--input", "a", "--output", "b", *words], "", refine.recipe_defaults)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("criterion", ["pir", "surprisal", "random"])
@pytest.mark.usefixtures("ray_session")
def test_every_criterion_removes_the_wanted_share(tmp_path, criterion):
    source = write_corpus(tmp_path / "c.jsonl", 12)
    words = ["--input", str(source), "--output", str(tmp_path / "run"), "--criterion", criterion]
    config = command.parse(refine.RefineConfig, [*words, "--remove-ratio", "0.5"], "", refine.recipe_defaults)
    assert not config.keep_used
    assert refine_with_table(**config.model_dump(exclude={"token_budget"})) == 0
    found = records(tmp_path / "run").values()
    assert {len(record["refined_steps"]) for record in found} == {2}
    assert {record["stopped"] for record in found} == {"ratio_reached"}
    assert report(tmp_path / "run")["steps_removed"] == 24
