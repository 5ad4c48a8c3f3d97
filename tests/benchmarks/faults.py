"""A run on three nodes of one machine, undisturbed and then with one fault after the other.

    python -m tests.benchmarks.faults [--rows 20000] [--only undisturbed actors ...]

Faults: a storage that fails one call in 50; an actor killed every ten seconds; a node removed and another added; rows
that raise, that exit the process and that allocate memory until the node has none; a second driver; Ctrl-C and the same
command again. After each there must be one record for each id, and only the bad rows may be quarantined. Measured: the
time against that of the undisturbed run, and the rows that were begun more than once, as a share of all rows for each
actor that died. A table of numbers and a sleep replace the model.
"""

import argparse
import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from jobs import refine
from jobs.driver import command
from tests.benchmarks.measured import write_result
from tests.fixtures import flaky
from tests.fixtures.runs import committed, reasons, records, start, wait_for, write_problems
from tests.fixtures.table_scorer import TableScorer

ACTORS = 4
SECONDS_PER_PASS = 0.03
TOKEN_BUDGET = 1 << 15
ROOM = 4 << 30  # bytes of memory that the nodes have; Ray kills workers when they are used up
BAD_ROWS = {"RAISES": "raised", "EXITS": "kills_the_process", "ALLOCATES": "kills_the_process"}


class HazardousScorer(TableScorer):
    """A table scorer that does what the text of a row says."""

    async def prepare(self, request, after=None):
        word = request.variants[0].text.split(maxsplit=2)[1]
        if word == "RAISES":
            raise LookupError("no such token")
        if word == "EXITS":
            os._exit(1)
        if word == "ALLOCATES":
            taken = [b"\1" * (1 << 30) for _ in range(100)]  # written, since Linux lends pages that are not
            assert not taken, "there is not so much memory"
        return await super().prepare(request, after)


class Disturbed:
    """One run of the command on the cluster, with the log of the rows that its actors begin."""

    def __init__(self, nodes, folder, source, uri=str):
        self.nodes = nodes
        self.log = folder / "log"
        self.output = folder / "run"
        self.log.mkdir(parents=True)
        self._arguments = ("tests.benchmarks.faults", "--once", self.log, "--input", uri(source), "--output",
                           uri(self.output), "--num-actors", ACTORS)  # fmt: skip
        self.started = time.monotonic()
        self.job = self.start()

    def start(self):
        """The command, with a file for its words."""
        errors = (self.output.parent / f"stderr-{time.monotonic():.0f}").open("w")
        environment = os.environ | {"RAY_ADDRESS": self.nodes.address}
        return start(*self._arguments, env=environment, stderr=errors)

    def wait_for_commits(self):
        """Until the run is at work."""
        wait_for(lambda: len(committed(self.output)) > 2 * ACTORS, self.job)

    def actors(self):
        """The processes of the actors that are alive."""
        return [int(path.stem) for path in self.log.iterdir() if psutil.pid_exists(int(path.stem))]

    def num_deaths(self):
        """Actors that had to be replaced."""
        return len(list(self.log.iterdir())) - ACTORS

    def num_begun_again(self):
        """How often a row was begun that had been begun before."""
        begun = Counter(line for path in self.log.iterdir() for line in path.read_text().splitlines())
        return sum(begun.values()) - len(begun)


def leave_alone(run):
    """The run that the others are compared with."""
    run.job.wait()


def kill_actors(run):
    """Kill an actor every ten seconds."""
    chance = random.Random(3)
    run.wait_for_commits()
    while run.job.poll() is None:
        alive = run.actors()
        if alive:
            psutil.Process(chance.choice(alive)).kill()
        try:
            run.job.wait(10)
        except subprocess.TimeoutExpired:
            continue


def change_nodes(run):
    """Remove a node without a warning and add another."""
    run.wait_for_commits()
    run.nodes.remove_node(run.nodes.list_all_nodes()[-1], allow_graceful=False)
    run.nodes.add_node(num_cpus=2)
    run.job.wait()


def start_again(run):
    """Start a second driver while the first is at work. The first must give way."""
    run.wait_for_commits()
    first, run.job = run.job, run.start()
    assert first.wait(120) == 2, "the first driver must say what has happened"
    run.job.wait()


def interrupt(run):
    """Ctrl-C, and the same command again."""
    run.wait_for_commits()
    run.job.send_signal(signal.SIGINT)
    assert run.job.wait(120) == 130, "Ctrl-C"
    run.job = run.start()
    run.job.wait()


FAULTS: dict[str, Callable[[Disturbed], None]] = {
    "undisturbed": leave_alone,
    "storage": leave_alone,
    "actors": kill_actors,
    "nodes": change_nodes,
    "rows": leave_alone,
    "second driver": start_again,
    "ctrl-c": interrupt,
}


def measure(name, nodes, folder, num_rows):
    """One run with one fault. Fails unless every row has its one record, with the right reason."""
    bad = {num_rows * (index + 1) // 5: word for index, word in enumerate(BAD_ROWS)} if name == "rows" else {}
    folder.mkdir()
    source = write_problems(folder / "c.jsonl", num_rows, special=bad)
    run = Disturbed(nodes, folder, source, (lambda path: f"flaky://{path}") if name == "storage" else str)
    FAULTS[name](run)
    seconds = time.monotonic() - run.started
    words = max(folder.glob("stderr-*"), key=lambda path: path.stat().st_mtime).read_text()
    assert run.job.returncode == 0, f"{name}: status {run.job.returncode}\n{words}"
    assert set(records(run.output)) == {f"c.jsonl:{number}" for number in range(num_rows)}
    expected = {f"c.jsonl:{number}": BAD_ROWS[word] for number, word in bad.items()}
    quarantined = {row_id for row_id, row in records(run.output).items() if row["status"] == "quarantined"}
    assert {row_id: reasons(run.output)[row_id] for row_id in quarantined} == expected
    again = run.num_begun_again()
    facts = {"seconds": round(seconds, 1), "deaths": run.num_deaths(), "rows_begun_again": again}
    if run.num_deaths():
        facts["percent_of_rows_again_for_each_death"] = round(100 * again / num_rows / run.num_deaths(), 2)
    print(name, facts, flush=True)
    return facts


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the children of a background shell ignore it
    flaky.register()
    if sys.argv[1:2] == ["--once"]:
        log = sys.argv[2]
        del sys.argv[1:3]
        make_scorer = functools.partial(HazardousScorer, SECONDS_PER_PASS, TOKEN_BUDGET, log)
        command.main(refine.RefineConfig, lambda config: refine.run(config, make_scorer), "", refine.recipe_defaults)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    options = parser.parse_args()
    from ray.cluster_utils import Cluster

    memory = psutil.virtual_memory()
    settings = {"memory_usage_threshold": (memory.total - memory.available + ROOM) / memory.total}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": settings}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    facts = {"rows": options.rows, "faults": {}}
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=2)
        with tempfile.TemporaryDirectory() as temporary:
            for name in options.only:
                measured = measure(name, nodes, Path(temporary) / name.replace(" ", "-"), options.rows)
                facts["faults"][name] = measured
                if "undisturbed" in facts["faults"]:
                    undisturbed = facts["faults"]["undisturbed"]["seconds"]
                    measured["time_against_undisturbed"] = round(measured["seconds"] / undisturbed, 2)
                if options.only == list(FAULTS):
                    write_result("faults", facts)
    finally:
        nodes.shutdown()


if __name__ == "__main__":
    main()
