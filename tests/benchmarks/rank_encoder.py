"""The paper's ranker, an encoder that reads the text, beside the boosted one, on the same problems of one teacher.

    python -m tests.benchmarks.rank_encoder

Draws --test-problems random problems of GPT-3.5's samples on MATH, and --problems others, by default all the rest.
Grades them, and trains both rankers on the others, 5% of which are for early stopping and calibration. `jobs.rank`
scores the samples of the test problems. Intervals come from a bootstrap over the test problems.

One epoch with one pair of each problem, without dropout: about an hour on one of two busy cores. Flags that the
benchmark does not know replace ON_CPU, its flags for `jobs.train --method ranker-encoder`. With the paper's learning
rate, on a GPU: --gpus 1 --epochs 5 --learning-rate 2e-5.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.runs.corpus import id_hash
from algorithms.ranking.metrics import area_under_curve, count_pairs, reliability
from algorithms.splits import plain_question
from algorithms.voting.intervals import RESAMPLES
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.runs import ROOT

CORPUS = SHARED_DATA / "math_teacher" / "gpt-3.5-turbo.parquet"
SPLITS = {"train": (0.95, 0.05, 0), "test": (0, 0, 1)}
ON_CPU = ("--no-dropout", "--epochs", "1", "--tokens-per-batch", "4096", "--learning-rate", "5e-5")


def verb(*args):
    """Run a verb as a user does. Returns the seconds it took."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *map(str, args)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def problems_of(corpus, num_train, num_test):
    """Random problems of a corpus as two tables. A question that the corpus holds twice is one problem."""
    table = pq.read_table(corpus)
    _, first = np.unique([plain_question(each) for each in table["question"].to_pylist()], return_index=True)
    order = np.random.default_rng(0).permutation(first)
    parts = {"test": order[:num_test], "train": order[num_test:][:num_train]}
    return {part: table.take(pa.array(rows)) for part, rows in parts.items()}


def scored(run):
    """Scores, grades and problems of a ranked run, without the samples whose grade is unknown."""
    table = pq.read_table(run / "rows", columns=["question", "correct", "score"])
    rows = [row for row in table.to_pylist() if row["correct"] is not None and row["score"] is not None]
    rows.sort(key=lambda row: (row["question"], row["score"]))
    return (
        np.array([row["score"] for row in rows]),
        np.array([row["correct"] for row in rows]),
        np.array([id_hash(plain_question(row["question"])) for row in rows], dtype=np.uint64),
    )


def statistics(scores, right, problems):
    return {
        "pair_accuracy": count_pairs(scores, right, problems).accuracy,
        "area_under_curve": area_under_curve(scores, right),
        "calibration_error": reliability(scores, right).expected_error,
    }


def resamples(problems):
    """The samples of each bootstrap resample of the problems, and their problems: one drawn twice counts as two."""
    order = np.argsort(problems, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(problems[order])) + 1)
    chance = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        drawn = [groups[number] for number in chance.integers(len(groups), size=len(groups))]
        yield np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [len(each) for each in drawn])


def compared(runs):
    """The statistics of every ranker, and the pair accuracy of the boosted one over the encoder's, with intervals."""
    found = {name: scored(run) for name, run in runs.items()}
    means = {name: statistics(*each) for name, each in found.items()}
    draws = {name: [] for name in found}
    problems = next(iter(found.values()))[2]
    for picks, copies in resamples(problems):
        for name, (scores, right, _) in found.items():
            draws[name].append(statistics(scores[picks], right[picks], copies))
    facts = {
        name: {each: interval(mean, [draw[each] for draw in draws[name]]) for each, mean in means[name].items()}
        for name in found
    }
    pairs = {name: np.array([draw["pair_accuracy"] for draw in draws[name]]) for name in found}
    difference = means["boosted"]["pair_accuracy"] - means["encoder"]["pair_accuracy"]
    facts["boosted over encoder"] = {"pair_accuracy": interval(difference, pairs["boosted"] - pairs["encoder"])}
    return facts


def interval(mean, draws):
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": mean, "low": float(low), "high": float(high)}


def described(run):
    """What a training run says of its samples and of the ranker."""
    totals = json.loads((run / "manifest.json").read_text())["totals"]
    ranker = json.loads((run / "ranker" / "ranker.json").read_text())
    kept = ("loss", "window", "best_epoch", "num_trees")
    return {
        "problems_with_pairs": totals["problems_with_pairs"],
        "samples": {split: totals[split] for split in ("train", "validation")},
        "cut": totals.get("cut"),
        **{name: ranker[name] for name in kept if name in ranker},
        "validation_pair_accuracy": ranker["measured"]["validation"]["pair_accuracy"],
    }


def logged(run):
    """Steps, pairs and loss over the training, in five parts, and the validation pair accuracy after each epoch."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "loss" in row]
    kept = ("loss", "pair_accuracy", "score_right", "score_wrong")
    return {
        "steps": rows[-1]["step"],
        "seconds_of_steps": round(losses[-1]["time"] - losses[0]["time"]),
        "fifths": [
            {name: float(np.mean([row[name] for row in part])) for name in kept}
            for part in np.array_split(losses, 5)
            if len(part)
        ],
        "after_epochs": [each["validation_pair_accuracy"] for each in rows if "validation_pair_accuracy" in each],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int)
    parser.add_argument("--test-problems", type=int, default=500)
    parser.add_argument("--gpus", type=float, default=0)
    options, flags = parser.parse_known_args()
    flags = flags or ON_CPU
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, table in problems_of(CORPUS, options.problems, options.test_problems).items():
            pq.write_table(table, folder / f"{part}.parquet")
            source = ("--input", folder / f"{part}.parquet", "--format", "tdg")
            verb("jobs.grade", *source, "--splits", *SPLITS[part], "--output", folder / f"graded-{part}")
            results[f"{part}_problems"] = table.num_rows
        methods = {
            "boosted": (("ranker",), 0.0),
            "encoder": (("ranker-encoder", "--gpus-per-worker", options.gpus, *flags), options.gpus),
        }
        for ranker, (method, gpus) in methods.items():
            run, data = folder / ranker, folder / "graded-train"
            seconds = verb("jobs.train", "--method", *method, "--cpus-per-worker", 1, "--data", data, "--output", run)
            results[ranker] = {"seconds_with_start_up": round(seconds), **described(run)}
            if ranker == "encoder":
                results[ranker] |= {"flags": flags, **logged(run)}
            print(ranker, json.dumps(results[ranker]), flush=True)
            places = ("--cpus-per-actor", 1, "--gpus-per-actor", gpus, "--output", folder / f"ranked-{ranker}")
            verb("jobs.rank", "--input", folder / "graded-test", "--ranker", run, *places)
        results["test"] = compared({ranker: folder / f"ranked-{ranker}" for ranker in methods})
    print(write_result("rank_encoder", results).read_text())


if __name__ == "__main__":
    main()
