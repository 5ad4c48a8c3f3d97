"""What the step checks find in right and wrong solutions: verdicts by kind, the pairs they order, their time.

    python -m tests.benchmarks.step_checks                                       grades the shared corpora first
    python -m tests.benchmarks.step_checks --graded runs/gpt-4 runs/gsm8k        runs of jobs.grade
    python -m tests.benchmarks.step_checks --graded runs/gpt-4 --show 50         also prints claims judged false

`--show` prints claims judged false in solutions graded right: slips that did no harm, or false alarms. A pair is a
right and a wrong solution of one problem; a score orders it rightly if the right one scores higher, and half if both
score the same. One score is a fixed rule; the other is a logistic regression on the counts, cross-validated by problem.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from algorithms.step_checks import KINDS, check, summary
from tests.benchmarks.grade_corpora import CORPORA
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.runs import ROOT

FOLDS = 5
MAX_COUNT = 8  # more claims than that tell nothing more


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graded", nargs="*", type=Path, default=[], help="output folders of jobs.grade")
    parser.add_argument("--show", type=int, default=0, help="claims to print for each corpus")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = {path.name: path for path in arguments.graded} or grade(Path(folder))
        results = {name: measure(graded_rows(path), arguments.show) for name, path in runs.items()}
    print(write_result("step_checks", {"corpora": results}).read_text())


def grade(folder):
    """Grade the shared corpora as a user does. Returns the run of each."""
    runs = {}
    for name, (path, corpus_format) in CORPORA.items():
        runs[name] = folder / name
        job = ["jobs.grade", "--input", SHARED_DATA / path, "--format", corpus_format, "--output", runs[name]]
        subprocess.run([sys.executable, "-m", *map(str, job)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return runs


def graded_rows(folder):
    columns = ["problem_id", "question", "rationale", "status"]
    rows = [
        row
        for path in sorted((folder / "rows").glob("*.parquet"))
        for row in pq.read_table(path, columns=columns).to_pylist()
    ]
    return [row for row in rows if row["status"] in ("right", "wrong") and row["rationale"]]


def measure(rows, num_shown):
    started = time.process_time()
    found = [check(row["rationale"], row["question"]) for row in rows]
    seconds = time.process_time() - started
    right = np.array([row["status"] == "right" for row in rows])
    problems = np.array([row["problem_id"] for row in rows])
    show([(row, claim) for row, claims in zip(rows, found, strict=True) for claim in claims], num_shown)
    counts = {
        status: [summary(claims) for row, claims in zip(rows, found, strict=True) if row["status"] == status]
        for status in ("right", "wrong")
    }
    x = features([summary(claims) for claims in found])
    return {
        "milliseconds_per_sample": round(1000 * seconds / len(rows), 2),
        "characters_per_sample": round(sum(len(row["rationale"]) for row in rows) / len(rows)),
        **{status: verdicts(each) for status, each in counts.items()},
        "pair_accuracy_of_a_rule": pair_accuracy(rule([summary(claims) for claims in found]), right, problems),
        "pair_accuracy_of_a_regression": pair_accuracy(cross_validated(x, right, problems), right, problems),
    }


def show(claims, num_shown):
    chosen = [(row, claim) for row, claim in claims if row["status"] == "right" and claim.verdict is False]
    for row, claim in random.Random(0).sample(chosen, min(num_shown, len(chosen))):
        text, start, end = row["rationale"], claim.start, claim.end
        passage = f"{text[max(0, start - 120) : start]} >>>{text[start:end]}<<< {text[end : end + 60]}"
        print(f"[{claim.kind}]", " ".join(passage.split()), end="\n\n")


def verdicts(counts):
    """Shares over the samples of one grade."""
    total = Counter()
    for each in counts:
        total.update(each)
    checked = sum(total[f"claims_{word}"] for word in ("true", "false"))
    return {
        "samples": len(counts),
        "claims_per_sample": round((checked + total["claims_unchecked"]) / len(counts), 2),
        "checked_per_sample": round(checked / len(counts), 2),
        "samples_with_a_checked_claim": round(
            sum(each["claims_true"] + each["claims_false"] > 0 for each in counts) / len(counts), 4
        ),
        "samples_with_a_false_claim": round(sum(each["claims_false"] > 0 for each in counts) / len(counts), 4),
        "false_share_of_checked": round(total["claims_false"] / max(1, checked), 4),
        "by_kind": {kind: {word: total[f"{kind}_{word}"] for word in ("true", "false", "unchecked")} for kind in KINDS},
    }


def rule(counts):
    """Fewer false claims first, as a share; then more true ones."""
    scores = []
    for each in counts:
        checked = each["claims_true"] + each["claims_false"]
        scores.append(-each["claims_false"] / max(1, checked) + 1e-3 * min(each["claims_true"], 100))
    return np.array(scores)


def features(counts):
    """Counts up to a bound, whether they are positive, and the shares of true and false claims."""
    x = np.array([list(each.values()) for each in counts], float)
    true, false = x[:, :1], x[:, 1:2]
    checked = np.maximum(true + false, 1)
    x = np.hstack([np.minimum(x, MAX_COUNT), x > 0, true / checked, false / checked])
    return (x - x.mean(0)) / (x.std(0) + 1e-9)


def cross_validated(x, right, problems):
    """The score of each sample by a regression fitted on the pairs of other problems."""
    folds = np.array([zlib.crc32(problem.encode()) % FOLDS for problem in problems])
    scores = np.zeros(len(x))
    for fold in range(FOLDS):
        inside = folds == fold
        scores[inside] = x[inside] @ fitted(x[~inside], right[~inside], problems[~inside])
    return scores


def fitted(x, right, problems, ridge=0.01):
    """Logistic regression on differences of pairs, by Newton's method."""
    pairs = [(r, w) for rights, wrongs in grouped(right, problems) for r in rights for w in wrongs]
    differences = x[[r for r, _ in pairs]] - x[[w for _, w in pairs]]
    weights = np.zeros(x.shape[1])
    for _ in range(12):
        p = 1 / (1 + np.exp(-differences @ weights))
        gradient = differences.T @ (1 - p) / len(p) - ridge * weights
        hessian = (differences * (p * (1 - p))[:, None]).T @ differences / len(p) + ridge * np.eye(len(weights))
        weights += np.linalg.solve(hessian, gradient)
    return weights


def grouped(right, problems):
    """The places of the right and of the wrong samples of each problem that has both."""
    groups = defaultdict(lambda: ([], []))
    for place, (is_right, problem) in enumerate(zip(right, problems, strict=True)):
        groups[problem][0 if is_right else 1].append(place)
    return [group for group in groups.values() if group[0] and group[1]]


def pair_accuracy(scores, right, problems):
    """The share of pairs in the right order, with its 95% interval over resampled problems."""
    ordered, total = [], []
    for rights, wrongs in grouped(right, problems):
        difference = scores[rights][:, None] - scores[wrongs][None]
        ordered.append((difference > 1e-9).sum() + (abs(difference) <= 1e-9).sum() / 2)
        total.append(difference.size)
    ordered, total = np.array(ordered), np.array(total)
    drawn = np.random.default_rng(0).integers(len(total), size=(1000, len(total)))
    low, high = np.quantile(ordered[drawn].sum(1) / total[drawn].sum(1), [0.025, 0.975])
    return {
        "value": round(float(ordered.sum() / total.sum()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


if __name__ == "__main__":
    main()
