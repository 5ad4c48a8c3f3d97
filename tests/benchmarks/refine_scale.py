"""The throughput of the pipeline without a model: a table of numbers replaces the scorer.

    python -m tests.benchmarks.refine_scale [--rows 10000000]

In one run: `1:8` sleeping actors against `8`, when the eighth is at work and the time of the whole; 16 sleeping actors
against one, while all of them work; then a small corpus and a large one, through two actors that do not sleep: rows per
second from the first commit to the last, the driver's memory, and the number of committed and of merged files. The
large run is killed halfway, and the time from its second start to its next commit is measured.

The table finds every step critical (`--t1 0.1 --t2 0.1`), so a row makes one request and is done: what is left is
reading, the refiner's loop, commits and merging.
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from actors.runs.folder import open_run_folder
from actors.runs.records import RecordStore
from jobs import refine
from tests.benchmarks.measured import write_result
from tests.fixtures.runs import ROOT, committed, kill_all, start
from tests.fixtures.table_scorer import TableScorer

SMALL = 100_000
SLEEPING_ROWS = {1: 300, 16: 4800}
SCALING_ROWS = 3000
KILLED_AT = 0.5  # of the large corpus


class TimedScorer(TableScorer):
    """Leaves a file for each actor: it holds the time of its start, and was touched last in its last pass."""

    def __init__(self, log, *settings):
        super().__init__(*settings)
        self._file = log / str(os.getpid())
        self._file.write_text(str(time.time()))

    def score(self, tasks):
        results = super().score(tasks)
        os.utime(self._file)
        return results


def run_once(source, output, num_actors, seconds_per_pass, token_budget):
    """Refine once in this process and print what was measured. The parent starts it as a process of its own."""
    log = output.parent / f"{output.name}-log"
    log.mkdir(exist_ok=True)
    config = refine.RefineConfig(
        input=str(source), output=str(output), num_actors=num_actors, t1=0.1, t2=0.1, token_budget=token_budget
    )
    begun = time.time()
    refine.run(config, functools.partial(TimedScorer, log, seconds_per_pass, token_budget))
    whole = time.time() - begun
    memory = memory_by_kind()
    store = RecordStore(open_run_folder(str(output)))
    commits = [commit for commit in store.commits() if commit.committed_at > begun]  # not by a run that was killed
    # The clock starts at the first commit, so the rows in that commit do not count.
    first, last = commits[0].committed_at, commits[-1].committed_at
    alive = [path for path in log.iterdir() if path.stat().st_mtime > begun]
    births = sorted(float(path.read_text()) for path in alive)
    all_work = births[-1], min(path.stat().st_mtime for path in alive)
    steady = [commit for commit in commits if all_work[0] < commit.committed_at <= all_work[1]]
    measured = {
        "rows": sum(commit.totals.num_rows for commit in commits),
        "rows_per_second": sum(commit.totals.num_rows for commit in commits[1:]) / max(1e-9, last - first),
        "rows_per_second_while_all_work": sum(commit.totals.num_rows for commit in steady[1:])
        / max(1e-9, steady[-1].committed_at - steady[0].committed_at if steady else 0.0),
        "seconds": whole,
        "seconds_until_all_actors": births[-1] - births[0],
        "actors": len(births),
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "driver_own_mb": memory["RssAnon"],
        "driver_shared_mb": memory["RssShmem"],  # mostly Ray's object store
        "committed_files": len(store.commits()),
        "merged_files": len(store.files()),
        "merged_mb_at_most": max(path.stat().st_size for path in output.glob("rows/*.parquet")) / 2**20,
    }
    print(json.dumps(measured))


def memory_by_kind():
    """This process's resident memory in MiB by Linux's names for its kinds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}


def arguments(source, output, num_actors, seconds_per_pass=0.0, token_budget=1 << 16):
    settings = [source, output, num_actors, seconds_per_pass, token_budget]
    return ["tests.benchmarks.refine_scale", "--once", *map(str, settings)]


def measure(source, output, num_actors, *settings):
    done = subprocess.run(
        [sys.executable, "-m", *arguments(source, output, num_actors, *settings)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    measured = {name: round(value, 1) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}
    print(num_actors, "actors", measured, flush=True)
    return measured


def kill_halfway(source, output, rows):
    """Start a run and kill it in its middle. Returns the number of files that it leaves."""
    job = start(*arguments(source, output, 2))
    store = RecordStore(open_run_folder(str(output)))
    while store.totals().num_rows < KILLED_AT * rows:
        assert job.poll() is None, "the job ended too early"
        time.sleep(2)
    kill_all(job)
    return len(committed(output))


def copies(source, path, number):
    """One file that repeats another. Ids count lines, so they differ."""
    text = source.read_bytes()
    with path.open("wb") as file:
        for _ in range(number):
            file.write(text)
    return path


def main():
    if sys.argv[1:2] == ["--once"]:
        source, output, num_actors, seconds, budget = sys.argv[2:]
        run_once(Path(source), Path(output), num_actors, float(seconds), int(budget))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def corpus(rows):
            path = folder / f"{rows}.jsonl"
            if not path.exists():
                subprocess.run([sys.executable, "-m", "jobs.make_corpus", "--rows", str(rows), "--output", str(path)],
                               cwd=ROOT, check=True)  # fmt: skip
            return path

        # Written after each part, so that a run that is stopped leaves what it has measured.
        facts = {"scaling": {}, "sleeping_actors": {}}
        for actors in ("8", "1:8"):
            facts["scaling"][actors] = measure(
                corpus(SCALING_ROWS), folder / f"scaling{actors[0]}", actors, 0.2, 1 << 14
            )
        facts["time_of_1_to_8_actors_against_8"] = ratio(facts["scaling"], "1:8", "8", "seconds")
        write_result("refine_scale", facts)
        for actors, rows in SLEEPING_ROWS.items():
            facts["sleeping_actors"][actors] = measure(
                corpus(rows), folder / f"sleeping{actors}", str(actors), 0.3, 1 << 14
            )
        facts["speed_up_of_16_actors"] = ratio(facts["sleeping_actors"], 16, 1, "rows_per_second_while_all_work")
        write_result("refine_scale", facts)
        facts["small"] = measure(corpus(SMALL), folder / "small", "2")
        write_result("refine_scale", facts)
        source, output = copies(corpus(SMALL), folder / "large.jsonl", options.rows // SMALL), folder / "large"
        files = kill_halfway(source, output, options.rows)
        started = time.time()
        facts["large_after_it_was_killed"] = measure(source, output, "2")
        commits = RecordStore(open_run_folder(str(output))).commits()
        facts |= {
            "files_when_killed": files,
            "seconds_until_the_killed_run_commits": next(
                round(commit.committed_at - started, 1) for commit in commits if commit.committed_at > started
            ),
            "driver_growth_mb": round(
                facts["large_after_it_was_killed"]["driver_peak_mb"] - facts["small"]["driver_peak_mb"], 1
            ),
        }
        assert sum(commit.totals.num_rows for commit in commits) == options.rows
    print(write_result("refine_scale", facts).read_text())


def ratio(measured, one, other, name):
    """How a number of one measurement compares with that of another."""
    return round(measured[one][name] / measured[other][name], 2)


if __name__ == "__main__":
    main()
