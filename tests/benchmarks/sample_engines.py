"""The embedded model answers GSM8K test questions with both local engines, in one run. All samples are graded.

    python -m tests.benchmarks.sample_engines

Tokens per second are counted from the first commit to the last, without the start-up of the engine, which takes vLLM a
minute on a CPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from actors.runs.folder import open_run_folder
from actors.runs.records import RecordStore
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.runs import ROOT


def sample(engine, rows, max_tokens, output):
    """Sample as a user does. Returns what was measured."""
    flags = ["--max-model-len", "1024"] if engine == "vllm" else []
    questions = SHARED_DATA / "gsm8k" / "test.jsonl"
    args = ["jobs.sample", "--engine", engine, "--input", questions, "--format", "gsm8k", "--limit", rows,
            "--num-samples", 8, "--max-tokens", max_tokens, "--seed", 1, "--output", output]  # fmt: skip
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *map(str, args), *flags], cwd=ROOT, check=True)
    seconds = time.perf_counter() - started
    store = RecordStore(open_run_folder(output))
    commits = store.commits()
    steady = sum(commit.totals.sums["num_tokens"] for commit in commits[1:])
    facts = json.loads((Path(output) / "report.json").read_text())
    return {
        "seconds_with_start_up": round(seconds, 1),
        "tokens": facts["tokens"]["total"],
        "mean_tokens": round(facts["tokens"]["mean"], 1),
        "cut_fraction": round(facts["cut_fraction"], 4),
        "mean_logprob": round(facts["mean_logprob"], 4),
        "tokens_per_second": round(steady / (commits[-1].committed_at - commits[0].committed_at), 1),
    }


def grade(output):
    """Right answers among the samples of a run."""
    graded = f"{output}-graded"
    args = ["jobs.grade", "--input", output, "--output", graded]
    subprocess.run([sys.executable, "-m", *args], cwd=ROOT, check=True)
    samples = json.loads((Path(graded) / "report.json").read_text())["samples"]
    return {"right": samples["right"], "accuracy": round(samples["right"] / samples["total"], 4), "grades": samples}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=256)
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine in ("transformers", "vllm"):
            output = f"{folder}/{engine}"
            results[engine] = sample(engine, options.rows, options.max_tokens, output) | grade(output)
            print(engine, results[engine], flush=True)
    rates = [results[engine]["tokens_per_second"] for engine in ("transformers", "vllm")]
    numbers = {"questions": options.rows, "max_tokens": options.max_tokens, "model": "smollm2, float32, 2 threads"}
    path = write_result("sample_engines", numbers | results | {"vllm_over_transformers": round(rates[1] / rates[0], 2)})
    print(path.read_text())


if __name__ == "__main__":
    main()
