"""SPIRIT-FS on AL1 (7 to 4 steps) and NBC (12 to 9): perplexity along the path, against ten random paths.

    python -m tests.benchmarks.demonstrations [--tasks al1 nbc] [--calibration-rows 32] [--demos 8] [--folder FOLDER]

Runs `jobs.make_corpus` and `jobs.demos` with the embedded model. The first problems are the demonstrations, the next
are for calibration. A repeated command resumes what is in FOLDER. A task that is not named keeps its earlier numbers.

The tokens of the same prompts with other numbers of calibration rows are counted without the model: they are the nodes
of the prefix forests, and the lengths of the texts.
"""

import argparse
import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path

from actors.models.source import ModelSource
from actors.scoring.preparation import Preparation
from algorithms.demonstrations import DemoPolicy, PromptScore, shorten
from algorithms.formats import parse_record
from tests.benchmarks.measured import RESULTS, write_result
from tests.fixtures.runs import command, report

TASKS = {"al1": (7, 4), "nbc": (12, 9)}
SEED = 7
COUNTED_ROWS = (8, 16, 32)
NUM_PATHS = 10


def run(*args):
    done = command(*args)
    assert done.returncode == 0, done.stderr
    print(done.stdout, flush=True)


def make_rows(task, num_rows, path):
    run("jobs.make_corpus", "--task", task, "--redundancy", 0, "--seed", SEED, "--rows", num_rows, "--output", path)
    return path.read_text().splitlines(keepends=True)


def shorten_task(task, options, folder):
    """Make a corpus of a task, shorten its first problems, and return the numbers of the run."""
    before, after = TASKS[task]
    lines = make_rows(task, options.demos + max(options.calibration_rows, *COUNTED_ROWS), folder / f"{task}.jsonl")
    for name, part in (("demos", lines[: options.demos]), ("calibration", lines[options.demos :])):
        (folder / f"{task}-{name}.jsonl").write_text("".join(part))
    run(
        "jobs.demos",
        "--demos", folder / f"{task}-demos.jsonl",
        "--calibration", folder / f"{task}-calibration.jsonl",
        "--calibration-rows", options.calibration_rows,
        "--target-steps", after,
        "--control-paths", NUM_PATHS,
        "--output", folder / f"{task}-run",
    )  # fmt: skip
    facts = report(folder / f"{task}-run")
    assert facts["steps"]["original"] == before
    names = ("demonstrations", "calibration_rows", "edits", "path", "control", "control_paths", "scoring")
    numbers = {name: facts[name] for name in names}
    stages = json.loads((folder / f"{task}-run" / "path.json").read_text())["path"]
    chains = [parse_record(json.loads(line), "steps", {}, None) for line in lines]
    demos, calibration = chains[: options.demos], chains[options.demos :]
    numbers["tokens_by_calibration_rows"] = {
        rows: count_tokens(demos, calibration[:rows], after, stages)
        for rows in (options.calibration_rows, *COUNTED_ROWS)
    }
    counted = numbers["tokens_by_calibration_rows"][options.calibration_rows]
    assert counted["tokens_forwarded"] == facts["scoring"]["tokens_forwarded"]
    return numbers


def count_tokens(demos, calibration, target_steps, stages):
    """The tokens of all prompts that the run of these stages and its random paths score."""
    policy = DemoPolicy(target_steps)
    asked = {}
    rounds = [[ppl for _, ppl in stage["candidates"]] for stage in stages[1:]]
    rounds[0].insert(0, stages[0]["perplexity"])  # the first round asks for the full prompt too
    follow(shorten(demos, calibration, policy), rounds, asked)
    blind = replace(policy, target_steps=stages[-1]["num_steps"])
    for number in range(NUM_PATHS):
        path = shorten(demos, calibration, blind, random.Random(f"0:{number}"))
        follow(path, [[1.0, 1.0], *([[1.0]] * len(stages))], asked)
    source = ModelSource("smollm2")
    prepare = Preparation(source.tokenizer.backend_tokenizer, source.window)
    prepared = [prepare(each.request) for each in asked]
    forwarded = sum(len(each.forest) for each in prepared)
    separate = sum(each.tokens_naive for each in prepared)
    return {
        "prompts": len(prepared),
        "tokens_forwarded": forwarded,
        "tokens_separate_forwards": separate,
        "ratio": round(separate / forwarded, 2),
    }


def follow(path, rounds, asked):
    """Take a path to its end with given perplexities, and note what it asks for."""
    replies = None
    for ppls in rounds:
        try:
            requests = path.send(replies)
        except StopIteration:
            return
        asked.update(dict.fromkeys(requests))
        replies = [PromptScore((ppl,), (1,), 1) for ppl in ppls]
        assert len(replies) == len(requests)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--calibration-rows", type=int, default=32)
    parser.add_argument("--demos", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        results = {task: shorten_task(task, options, folder) for task in options.tasks}
    earlier = RESULTS / "demonstrations.json"
    known = json.loads(earlier.read_text())["tasks"] if earlier.exists() else {}
    print(write_result("demonstrations", {"model": "smollm2, float32", "tasks": known | results}).read_text())


if __name__ == "__main__":
    main()
