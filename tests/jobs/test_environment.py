"""What workers get of the driver's environment, and how actors are placed."""

import os
import subprocess
import sys

import pytest
from ray import cloudpickle

from actors.errors import UserError
from actors.runs.folder import open_run_folder
from actors.runs.nodes import output_unseen
from actors.runs.session import begin_session
from jobs.driver import cluster, environment
from jobs.driver.cluster import Ask
from tests.fixtures.runs import command, start, wait_for, write_problems


def test_credentials_and_proxies_are_carried_and_nothing_else(monkeypatch):
    for name in list(os.environ):
        monkeypatch.delenv(name)
    given = {"HF_TOKEN": "h", "AWS_SECRET_ACCESS_KEY": "a", "https_proxy": "p", "NO_PROXY": "n", "SLUICE_CACHE": "/c"}
    for name, value in (given | {"HOME": "/root", "OPENAI_API_KEY": "of the driver", "PATH": "/bin"}).items():
        monkeypatch.setenv(name, value)
    assert environment.carried() == given


def test_a_worker_keeps_what_its_node_sets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HOME", "/driver/cache")
    hook = cloudpickle.dumps(environment.setup_hook())
    code = (
        "import os, pickle, sys; pickle.load(sys.stdin.buffer)(); "
        "print(os.environ['HF_TOKEN'], os.environ['HF_HOME'], 'jobs' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=hook, capture_output=True, check=True, cwd="/", env={"HF_HOME": "/node"}
    )
    assert done.stdout.split() == [b"secret", b"/node", b"False"]


@pytest.mark.parametrize(
    ("ask", "node", "number"),
    [
        (Ask(1, 0), {"CPU": 4.0}, 4),
        (Ask(2, 0.5), {"CPU": 16.0, "GPU": 1.0}, 2),
        (Ask(0.1, 0), {"CPU": 1.0}, 10),
        (Ask(1, 1), {"CPU": 64.0}, 0),
        (Ask(8, 0), {"CPU": 4.0}, 0),
    ],
    ids=str,
)
def test_how_many_actors_fit_on_a_node(ask, node, number):
    assert ask.fits(node) == number


@pytest.mark.usefixtures("ray_session")
def test_actors_that_cannot_be_placed_are_told_in_one_line(tmp_path):
    import ray

    source = write_problems(tmp_path / "c.jsonl", 10)
    args = ["tests.fixtures.table_refine", tmp_path, 0, "--input", source, "--unmerged", "drop"]
    alone = command(*args, "--output", tmp_path / "run", "--gpus-per-actor", 1)
    assert alone.returncode == 2
    last = alone.stderr.splitlines()[-1]
    assert "1 actor(s) ask for 1 CPU and 1 GPU each and reading for 1 CPU; the cluster has" in last
    joined = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    other = [*args, "--output", tmp_path / "other", "--cpus-per-actor", 500]
    refused = command(*other, env=joined)
    assert refused.returncode == 2
    last = refused.stderr.splitlines()[-1]
    assert "1 actor(s) ask for 500 CPU each and reading for 1 CPU; the cluster has" in last
    assert last.endswith("or wait for more nodes with --wait-for-resources MINUTES")
    with (tmp_path / "errors").open("w") as errors:
        job = start(*other, "--wait-for-resources", 5, env=joined, stderr=errors)
        wait_for(lambda: "waiting: 1 actor(s) ask for 500 CPU each" in (tmp_path / "errors").read_text(), job, 90)
        job.terminate()
        assert job.wait(60) == 130


def test_a_node_tells_what_keeps_it_from_a_run(tmp_path):
    run = open_run_folder(str(tmp_path / "run"))
    assert output_unseen(run, "s") == "cannot see"
    begin_session(run, "s")
    assert output_unseen(run, "s") is None
    assert output_unseen(run, "other") == "has another folder at"
    (tmp_path / "file").touch()
    assert output_unseen(open_run_folder(str(tmp_path / "file" / "run")), "s").startswith("cannot read (")


@pytest.mark.usefixtures("ray_session")
def test_a_run_is_refused_that_a_node_cannot_see(tmp_path, monkeypatch):
    """The one node of this Ray stands for two, whose disks are one: what is missing is missing on both."""
    import ray

    [node] = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [node, node | {"NodeManagerHostname": "second"}])
    run = open_run_folder(str(tmp_path / "run"))
    begin_session(run, "s")
    cluster.check_output(run, "s")
    cluster.check_visible("--input", [str(tmp_path)])
    where = f"node {node['NodeManagerHostname']}"
    with pytest.raises(UserError, match=f"^--output: {where} has another folder at {run.path}: choose a path that all"):
        cluster.check_output(run, "other")
    with pytest.raises(UserError, match=f"^--input: {where} cannot see {tmp_path}/none: choose a path that all nodes"):
        cluster.check_visible("--input", [str(tmp_path), f"{tmp_path}/none"])
