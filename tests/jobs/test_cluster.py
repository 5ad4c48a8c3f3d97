"""A run on three nodes while actors are killed and nodes come and go: one record for each id, and nobody is blamed."""

import os
import random
import subprocess
import threading
import time

import psutil
import pytest

from tests.fixtures.runs import command, committed, records, report, start, wait_for, write_problems

ROWS = 1200


@pytest.fixture
def cluster():
    """Three nodes on this machine, none of which this process joins."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=3)
        yield nodes
    finally:
        nodes.shutdown()


def actors_of(log):
    """The processes of the actors that are alive."""
    return [int(path.stem) for path in log.iterdir() if psutil.pid_exists(int(path.stem))]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_survives_dead_actors_and_lost_nodes(cluster, tmp_path):
    source, log, output = write_problems(tmp_path / "c.jsonl", ROWS), tmp_path / "log", tmp_path / "run"
    log.mkdir()
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    job = start("tests.fixtures.table_refine", log, 0.02, "--input", source, "--output", output, "--t1", 1.0,
                "--unmerged", "drop", "--num-actors", 4, env=environment, stderr=subprocess.PIPE)  # fmt: skip
    errors = []
    reader = threading.Thread(target=lambda: errors.extend(job.stderr))
    reader.start()
    wait_for(lambda: len(committed(output)) > 1, job)
    chance = random.Random(3)
    for _ in range(2):
        psutil.Process(chance.choice(actors_of(log))).kill()
        time.sleep(5)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    cluster.add_node(num_cpus=3)
    assert job.wait(400) == 0, "".join(errors)
    reader.join()
    assert set(records(output)) == {f"c.jsonl:{number}" for number in range(ROWS)}
    assert report(output)["rows"]["quarantined"] == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_is_told_to_wait_starts_when_a_node_with_room_comes(cluster, tmp_path):
    source, log, output = write_problems(tmp_path / "c.jsonl", 20), tmp_path / "log", tmp_path / "run"
    log.mkdir()
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    with (tmp_path / "errors").open("w") as errors:
        job = start("tests.fixtures.table_refine", log, 0, "--input", source, "--output", output, "--t1", 1.0,
                    "--unmerged", "drop", "--cpus-per-actor", 5, "--wait-for-resources", 4, env=environment,
                    stderr=errors)  # fmt: skip
        wait_for(lambda: "waiting: 1 actor(s) ask for 5 CPU each" in (tmp_path / "errors").read_text(), job, 120)
        cluster.add_node(num_cpus=6)
        assert job.wait(120) == 0, (tmp_path / "errors").read_text()
    assert len(records(output)) == 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_doctor_asks_every_node(cluster, tmp_path):
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    done = command("jobs.doctor", "--output", tmp_path / "run", env=environment)
    told = " ".join(done.stdout.split())  # lines are wrapped
    assert "ok nodes 3 nodes with" in told, done.stderr
    assert f"ok storage all 3 nodes see {tmp_path}/run; writes" in told
    assert "ok clocks all within 2 s" in told
    assert "ok ports nodes reach each other's raylets and object stores" in told
    assert not (tmp_path / "run").exists()
