"""Runs jobs: in this process with a table scorer, or as the command a person types."""

import functools
import json
import subprocess
import sys
import time
from pathlib import Path

from actors.records import RecordStore
from actors.storage import open_storage
from jobs import refine
from tests.table_scorer import TableScorer

ROOT = Path(__file__).parents[2]


def refine_with_table(seconds_per_pass=0.0, token_budget=1 << 16, log=None, **flags):
    """`jobs.refine` on the shared Ray; the exit status."""
    config = refine.RefineConfig.model_validate({"t1": 1.0, "merge": "drop"} | flags)
    return refine.run(config, functools.partial(TableScorer, seconds_per_pass, token_budget, log))


def records(output):
    """All terminal records of a run, by id; each id must be there once."""
    found = [
        row for batch in RecordStore(open_storage(str(Path(output) / "rows"))).batches() for row in batch.to_pylist()
    ]
    assert len({row["id"] for row in found}) == len(found), "an id has two records"
    return {row["id"]: row for row in found}


def report(output):
    return json.loads((Path(output) / "report.json").read_text())


def command(*args, **settings):
    """`python -m ARGS` in the repository's root, as a person runs it."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, args)], cwd=ROOT, capture_output=True, text=True, check=False, **settings
    )


def write_problems(path, count, **columns):
    """A corpus of `count` generated problems in format steps, without an id column."""
    from algorithms.word_problems import generate

    with Path(path).open("w") as lines:
        for index in range(count):
            problem = generate(1, index)
            row = {"question": f"#{index} {problem.question}", "steps": problem.steps, "answer": problem.answer}
            lines.write(json.dumps(row | columns) + "\n")
    return path


def wait_for(condition, job=None, seconds=240):
    """Wait until it holds; fail when the job ends before, or the time does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert job is None or job.poll() is None, "the job ended too early"
        assert time.monotonic() < deadline, f"not in {seconds} s"
        time.sleep(0.05)
