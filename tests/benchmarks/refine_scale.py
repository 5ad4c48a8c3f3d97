"""The throughput of the pipeline without a model: a table of numbers replaces the scorer.

    python -m tests.benchmarks.refine_scale [--rows 1000000]

Three measurements in one run: rows per second from the first commit to the last; how much more memory the driver takes
for ten times the rows; rows per second of 16 sleeping actors against one.
"""

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from actors.runs.folder import open_run_folder
from actors.runs.records import RecordStore
from jobs import refine
from tests.benchmarks.measured import write_result
from tests.fixtures.runs import ROOT
from tests.fixtures.table_scorer import TableScorer

SMALL = 100_000
SLEEPING_ROWS = {1: 600, 16: 9600}


def run_once(source, output, num_actors, seconds_per_pass, token_budget):
    """Refine once in this process and print what was measured. The parent starts it as a process of its own."""
    config = refine.RefineConfig(input=str(source), output=str(output), num_actors=str(num_actors), unmerged="drop")
    refine.run(config, functools.partial(TableScorer, seconds_per_pass, token_budget))
    commits = RecordStore(open_run_folder(str(output))).commits()
    # The clock starts at the first commit, so the rows in that commit do not count.
    seconds = commits[-1].committed_at - commits[0].committed_at
    rows = sum(commit.totals.num_rows for commit in commits[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured = {"rows": rows + commits[0].totals.num_rows, "rows_per_second": rows / seconds, "driver_peak_mb": peak}
    print(json.dumps(measured))


def measure(source, output, num_actors, seconds_per_pass=0.0, token_budget=1 << 16):
    settings = [source, output, num_actors, seconds_per_pass, token_budget]
    args = [sys.executable, "-m", "tests.benchmarks.refine_scale", "--once", *map(str, settings)]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    measured = json.loads(done.stdout.splitlines()[-1])
    measured = {name: round(value, 1) for name, value in measured.items()}
    print(num_actors, "actors", measured, flush=True)
    return measured


def main():
    if sys.argv[1:2] == ["--once"]:
        source, output, num_actors, seconds, budget = sys.argv[2:]
        run_once(Path(source), Path(output), int(num_actors), float(seconds), int(budget))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def corpus(rows):
            path = folder / f"{rows}.jsonl"
            subprocess.run([sys.executable, "-m", "jobs.make_corpus", "--rows", str(rows), "--output", str(path)],
                           cwd=ROOT, check=True)  # fmt: skip
            return path

        small = measure(corpus(SMALL), folder / "small", num_actors=2)
        large = measure(corpus(options.rows), folder / "large", num_actors=2)
        sleeping = {
            actors: measure(corpus(rows), folder / f"sleeping{actors}", actors, 0.2, 1 << 15)
            for actors, rows in SLEEPING_ROWS.items()
        }
    path = write_result(
        "refine_scale",
        {
            "large": large,
            "small": small,
            "driver_growth_mb": round(large["driver_peak_mb"] - small["driver_peak_mb"], 1),
            "sleeping_actors": sleeping,
            "speed_up_of_16_actors": round(sleeping[16]["rows_per_second"] / sleeping[1]["rows_per_second"], 2),
        },
    )
    print(path.read_text())


if __name__ == "__main__":
    main()
