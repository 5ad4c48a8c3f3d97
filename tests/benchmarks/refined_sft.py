"""Does a student learn as well from refined solutions? SFT on original and on refined GSM8K rows, then a test.

    python -m tests.benchmarks.refined_sft --folder runs/refined_sft

The embedded model refines training rows, learns from them, and answers test questions greedily. `random` is the
control: each row loses as many steps as refinement removed, chosen at random but never the last one. It takes nearly
two hours on two cores. Repeat the command to resume.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

from algorithms.chains import recorded_chain
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.runs import ROOT, records, report


def job(*args):
    """Run a verb as a user does."""
    subprocess.run([sys.executable, "-m", *map(str, args)], cwd=ROOT, check=True)


def corpora(refined):
    """The three corpora: name -> rows of right solutions."""
    found = {"original": [], "refined": [], "random": []}
    for record in sorted(records(refined).values(), key=lambda record: record["id"]):
        if record["status"] == "quarantined":
            continue
        original, kept = (recorded_chain(record, refined=refined) for refined in (False, True))
        steps = original.steps
        chosen = sorted(random.Random(record["id"]).sample(range(len(steps) - 1), len(kept.steps) - 1))
        at_random = original.joiner.join([*(steps[number] for number in chosen), steps[-1]])
        for rows, text in zip(found.values(), (original.text, kept.text, at_random), strict=True):
            row = {"id": record["id"], "question": record["question"], "rationale": text}
            rows.append(row | {"status": "right", "correct": True})
    return found


def answers(output, questions, max_tokens, *adapter):
    """Answer test questions greedily. Returns how many answers are right, and how long they are."""
    job("jobs.sample", "--input", SHARED_DATA / "gsm8k" / "test.jsonl", "--format", "gsm8k", "--limit", questions,
        "--num-samples", 1, "--temperature", 0, "--max-tokens", max_tokens, "--output", output, *adapter)  # fmt: skip
    job("jobs.grade", "--input", output, "--output", f"{output}-graded")
    sampled, graded = report(output), report(f"{output}-graded")["samples"]
    return {
        "right": graded["right"],
        "mean_answer_tokens": round(sampled["tokens"]["mean"], 1),
        "cut_fraction": round(sampled["cut_fraction"], 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--students", nargs="+", default=["original", "refined", "random"])
    parser.add_argument("--scope", default="suffix")
    options = parser.parse_args()
    folder = options.folder
    refined = folder / "refined"
    job("jobs.refine", "--input", SHARED_DATA / "gsm8k" / "train.jsonl", "--format", "gsm8k", "--limit", options.rows,
        "--scope", options.scope, "--output", refined)  # fmt: skip
    results = {"untrained": answers(folder / "untrained-answers", options.questions, options.max_tokens)}
    rows_of = corpora(refined)
    for name in options.students:
        file, output = folder / f"{name}.jsonl", folder / f"student-{name}"
        file.write_text("\n".join(map(json.dumps, rows_of[name])))
        flags = ["--method", "sft", "--epochs", options.epochs, "--batch-size", 16, "--learning-rate", 1e-3]
        job("jobs.train", "--data", file, "--output", output, *flags)
        facts = report(output)
        results[name] = {
            "trained_tokens": facts["examples"]["tokens"],
            "loss": facts["metrics"]["loss"],
        } | answers(folder / f"student-{name}-answers", options.questions, options.max_tokens, "--adapter", output)
        print(name, results[name], flush=True)
    settings = {name: value for name, value in vars(options).items() if name != "folder"}
    numbers = {"settings": settings, "reasoning_tokens": report(refined)["reasoning_tokens"], "students": results}
    print(write_result("refined_sft", numbers).read_text())


if __name__ == "__main__":
    main()
