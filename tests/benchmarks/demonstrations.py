"""SPIRIT-FS on AL1 (7 to 4 steps) and NBC (12 to 9): perplexity along the path, against ten random paths.

    python -m tests.benchmarks.demonstrations [--calibration-rows 32] [--demos 8] [--tasks al1 nbc] [--folder FOLDER]

Runs `jobs.make_corpus` and `jobs.demos` with the embedded model. The first problems are the demonstrations, the next
are for calibration. A repeated command resumes what is in FOLDER.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tests.benchmarks.measured import write_result
from tests.fixtures.runs import command, report

TASKS = {"al1": (7, 4), "nbc": (12, 9)}
SEED = 7


def run(*args):
    done = command(*args)
    assert done.returncode == 0, done.stderr
    print(done.stdout, flush=True)


def shorten(task, options, folder):
    """Make a corpus of a task, shorten its first problems, and return the numbers of the run."""
    before, after = TASKS[task]
    corpus = folder / f"{task}.jsonl"
    num_rows = options.demos + options.calibration_rows
    run("jobs.make_corpus", "--task", task, "--redundancy", 0, "--seed", SEED, "--rows", num_rows, "--output", corpus)
    lines = corpus.read_text().splitlines(keepends=True)
    for name, part in (("demos", lines[: options.demos]), ("calibration", lines[options.demos :])):
        (folder / f"{task}-{name}.jsonl").write_text("".join(part))
    run(
        "jobs.demos",
        "--demos", folder / f"{task}-demos.jsonl",
        "--calibration", folder / f"{task}-calibration.jsonl",
        "--calibration-rows", options.calibration_rows,
        "--target-steps", after,
        "--output", folder / f"{task}-run",
    )  # fmt: skip
    facts = report(folder / f"{task}-run")
    assert facts["steps"]["original"] == before
    names = ("demonstrations", "calibration_rows", "edits", "path", "control", "control_paths", "scoring")
    return {name: facts[name] for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration-rows", type=int, default=32)
    parser.add_argument("--demos", type=int, default=8)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        results = {task: shorten(task, options, folder) for task in options.tasks}
    print(json.dumps(results, indent=2))
    print(write_result("demonstrations", {"model": "smollm2, float32", "tasks": results}))


if __name__ == "__main__":
    main()
