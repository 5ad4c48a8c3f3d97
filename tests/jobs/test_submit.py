"""Submission: one id for one run, flags checked before anything is sent, a small package, and a cluster that dies."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import zipfile

import pytest
import yaml
from ray.job_submission import JobStatus

from actors.code import ROOT
from actors.errors import UserError
from jobs import VERBS, submit
from jobs.driver import command, submission
from jobs.driver.submission import Decision, decide, submission_id
from tests.fixtures.head import TOKEN, ray_head
from tests.fixtures.runs import committed, records, start, wait_for
from tests.fixtures.verbs import OTHER_CONFIGS, call, config_class

NUM_ROWS = 40  # a minute or two for the embedded model on one thread
NO_CLUSTER = "--address", "http://127.0.0.1:9"  # discard: nobody listens


def refine_id(*flags):
    return submission_id("refine", command.config_of("refine", ["--input", "in.jsonl", *flags]))


def test_the_id_is_the_runs():
    first = refine_id("--output", "/shared/run")
    assert re.fullmatch("sluice-refine-[0-9a-f]{12}", first)
    same = (
        ["/shared/run/", "/shared/./run"],
        ["--num-actors", "4"],
        ["--max-quarantined", "5%", "--cpus-per-actor", "2"],
    )
    assert {refine_id("--output", spelling) for spelling in same[0]} == {first}
    assert {refine_id("--output", "/shared/run", *flags) for flags in same[1:]} == {first}
    others = [["--t1", "1.2"], ["--limit", "5"], ["--recipe", "digest"], ["--output", "/shared/run2"]]
    ids = {refine_id("--output", "/shared/run", *flags) for flags in others}
    assert len(ids | {first}) == 5
    assert refine_id("--output", "s3://bucket/run/") == refine_id("--output", "s3://bucket/run")


def test_a_recipe_and_a_config_file_count_by_what_they_set(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("t1: 1.2\noutput: /shared/run\n")
    assert refine_id("--config", str(file)) == refine_id("--t1", "1.2", "--output", "/shared/run")


def test_every_flag_that_may_change_is_a_flag():
    known = {
        name
        for verb in VERBS
        for each in (config_class(verb), *OTHER_CONFIGS.get(verb, ()))
        for name in each.model_fields
    }
    assert known >= submission.NOT_IDENTITY


@pytest.mark.parametrize(
    ("jobs", "again", "decision"),
    [
        ({}, False, Decision("submit", "job")),
        ({"job-of-others": "RUNNING", "jo": "RUNNING"}, False, Decision("submit", "job")),
        ({"job": "PENDING"}, False, Decision("follow", "job")),
        ({"job": "RUNNING"}, True, Decision("follow", "job")),
        ({"job": "SUCCEEDED"}, False, Decision("finished", "job")),
        ({"job": "SUCCEEDED"}, True, Decision("submit", "job-2")),
        ({"job": "FAILED"}, False, Decision("submit", "job-2", "job")),
        ({"job": "FAILED", "job-2": "RUNNING"}, False, Decision("follow", "job-2")),
        ({"job-10": "STOPPED", "job": "FAILED", "job-9": "FAILED"}, False, Decision("submit", "job-11", "job-10")),
        ({"job": "SUCCEEDED", "job-2": "FAILED"}, False, Decision("submit", "job-3", "job-2")),
    ],
)
def test_what_to_do_with_earlier_jobs(jobs, again, decision):
    assert decide("job", jobs, again) == decision


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ([], "missing VERB after submit's own flags; the verbs are make_corpus, refine"),
        (["improve"], "'improve' is no verb to submit; the verbs are make_corpus"),
        (["submit", "refine"], "'submit' is no verb to submit"),
        (["refine", "--input", "x"], "refine: missing --output"),
        (["refine", "--input", "x", "--output", "/y", "--t3", "0"], "refine: Unrecognized options: --t3"),
        (["refine", "--input", "x", "--output", "/y", "--num-actors", "no"], "--num-actors 'no': must be N or MIN:MAX"),
        (["refine", "--input", "x", "--output", "runs/y"], "--output runs/y is relative, and a job runs in a folder"),
        (["train", "--method", "ranker", "--data", "x"], "train: missing --output"),
        (["refine", "--config", "/etc/none.yaml"], "--config /etc/none.yaml cannot be read"),
        (["refine", "--input", "x", "--output", "/y"], "no dashboard answers at --address http://127.0.0.1:9 (Conn"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_before_anything_is_sent(line, complaint, capsys):
    assert call("submit", *NO_CLUSTER, *line) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("submit: error: ")
    assert complaint in error
    assert len(error.splitlines()) == 1


def test_an_address_that_is_no_dashboard_is_told(capsys):
    assert call("submit", "--address", "ray-head:6379", "report", "/shared/run") == 2
    assert "--address ray-head:6379 is no dashboard: give a URL such as http://" in capsys.readouterr().err


def test_flags_before_the_verb_are_submits_own(capsys):
    assert call("submit", "--no-wait", "--address=http://127.0.0.1:9", "report", "/shared/run") == 2
    assert "no dashboard answers at --address http://127.0.0.1:9" in capsys.readouterr().err
    assert call("submit", "--wait", "refine", "--help") == 0
    assert "--protect-answer" in capsys.readouterr().out


def test_a_config_file_travels_with_the_code(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "jobs")
    line = submission.entrypoint("refine", ["--t1", "1.2", "--config", "refine.yaml", "--columns", "question", "a b"])
    assert line == "python -m jobs.refine --t1 1.2 --config jobs/refine.yaml --columns question 'a b'"
    line = submission.entrypoint("doctor", ["--for", "refine", "--config=refine.yaml"])
    assert line == "python -m jobs.doctor --for refine --config=jobs/refine.yaml"
    with pytest.raises(UserError, match=r"--config .*x.yaml is outside .*: copy it there"):
        submission.entrypoint("refine", ["--config", str(tmp_path / "x.yaml")])


def test_the_example_config_is_one_that_submit_takes():
    config = command.config_of("refine", ["--config", str(ROOT / "jobs/refine.yaml")])
    submission.check_output(config)
    assert (ROOT / config.input).is_file()
    assert set(yaml.safe_load((ROOT / "jobs/refine.yaml").read_text())) <= set(type(config).model_fields)


def test_the_package_is_the_code_and_the_examples_and_small(tmp_path):
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    assert submission.runtime_env("nodes") == {"working_dir": str(ROOT)}
    create_package(str(ROOT), package, include_gitignore=True, excludes=[".git", ".venv"])
    names = {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
    tops = {name.split("/")[0] for name in names if "/" in name}
    assert tops == {"algorithms", "actors", "jobs", "serve", "examples"}
    assert {"jobs/refine.yaml", "jobs/reports/refine.html.j2", "examples/gsm8k.jsonl"} <= names
    assert package.stat().st_size < 5e6
    assert sum(info.file_size for info in zipfile.ZipFile(package).infolist()) < 5e6


def test_uv_installs_what_sluice_depends_on():
    packages = submission.runtime_env("uv")["uv"]["packages"]
    assert "ray[data,serve,train]==2.60.0" in packages or "ray[data,train,serve]==2.60.0" in packages
    assert not [each for each in packages if each.startswith(("pytest", "vllm"))]


class FakeClient:
    """A dashboard whose connections break: each gives the log from its start, and then its status or an error."""

    def __init__(self, *connections):
        self.connections = list(connections)

    async def tail_job_logs(self, job):
        self.chunks, self.end = self.connections.pop(0)
        for chunk in self.chunks:
            yield chunk
        if isinstance(self.end, Exception):
            raise self.end

    def get_job_status(self, job):
        return JobStatus(self.end)


@pytest.mark.parametrize(
    ("connections", "printed", "status"),
    [
        ([(["one\n", "two\n"], "SUCCEEDED")], "one\ntwo\n", "SUCCEEDED"),
        (
            [(["one\n", "tw"], RuntimeError("closed")), (["one\ntwo\n", "three\n"], "FAILED")],
            "one\ntwo\nthree\n",
            "FAILED",
        ),
        ([([], "PENDING"), (["one\n"], "RUNNING"), (["on", "e\n"], "STOPPED")], "one\n", "STOPPED"),
        ([(["one\n"], OSError("refused")), ([], OSError("refused")), ([], OSError("refused"))], "one\n", None),
    ],
    ids=["straight", "a broken connection", "before it starts", "nobody answers"],
)
def test_each_line_of_the_log_is_printed_once(connections, printed, status, capsys, monkeypatch):
    monkeypatch.setattr(submit, "RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr(submit, "LOST_SECONDS", 0.015)
    assert asyncio.run(submit._print_log(FakeClient(*connections), "job")) == status
    assert capsys.readouterr().out == printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_is_submitted_followed_left_and_finished_on_another_cluster(tmp_path):
    source, output = tmp_path / "corpus.jsonl", tmp_path / "run"
    assert call("make_corpus", "--rows", NUM_ROWS, "--output", source) == 0
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    line = ["refine", "--input", source, "--output", output]

    def submitted(address, *flags, environment=token):
        args = [sys.executable, "-m", "jobs", "submit", "--address", address, *flags, *map(str, line)]
        return subprocess.run(
            args, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=400
        )

    with ray_head(token=TOKEN) as (address, _):
        refused = submitted(address, environment={})
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == (
            f"submit: error: the cluster at --address {address} asks for a token: "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN\n"
        )
        first = submitted(address, "--no-wait")
        assert (first.returncode, first.stderr) == (0, "")
        job = first.stdout.split()[1]
        assert first.stdout.splitlines()[0] == f"submitted {job}"
        follower = start("jobs", "submit", "--address", address, *line, env=os.environ | token,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        assert follower.stdout.readline() == f"{job} runs already\n"
        while f"refining with smollm2: {NUM_ROWS} rows" not in follower.stdout.readline():
            assert follower.poll() is None
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 130
        assert "the job goes on. Follow it: repeat the command" in follower.stderr.read()
        wait_for(lambda: committed(output))
    assert not (output / "rows").exists()
    with ray_head(token=TOKEN) as (address, _):
        done = submitted(address)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[0] == f"submitted {job}"
        assert done.stdout.splitlines()[-1] == f"{job}: succeeded"
        assert f"rows        {NUM_ROWS}:" in done.stdout
        again = submitted(address)
        assert again.returncode == 0
        assert again.stdout == f"{job} has succeeded: this run is finished. --again submits it once more\n"
    assert len(records(output)) == NUM_ROWS
