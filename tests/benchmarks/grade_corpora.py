"""Grades the whole shared corpora. The results compare the grades with those of the plain string rule.

    python -m tests.benchmarks.grade_corpora

Also measures the time, the memory of the processes that grade, and the cost of two planted answers: one never ends,
one is huge.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.runs import ROOT

CORPORA = {
    "gpt-3.5-turbo": ("math_teacher/gpt-3.5-turbo.parquet", "tdg"),
    "gpt-4": ("math_teacher/gpt-4.parquet", "tdg"),
    "gsm8k model solutions": ("gsm8k/model_solutions.jsonl", "gsm8k-solutions"),
}
NAMES = ("RowWorker", "forkserver", "jobs.grade")  # of the processes that grade: actor, pool, driver
PLANTED = [r"\boxed{9^{9^{9^{9}}}}", rf"\boxed{{{'x+' * 50_000}1}}"]


def measure(path, corpus_format, output):
    """Grade a corpus as a user does. Returns seconds, memory and the facts of its report."""
    args = [sys.executable, "-m", "jobs.grade", "--input", path, "--format", corpus_format, "--output", output]
    started = time.perf_counter()
    job = subprocess.Popen(list(map(str, args)), cwd=ROOT, stdout=subprocess.DEVNULL)
    samples = [0.0]
    watcher = threading.Thread(target=watch, args=(job, samples))
    watcher.start()
    assert job.wait() == 0
    watcher.join()
    facts = json.loads((Path(output) / "report.json").read_text())
    quarter = len(samples) // 4
    return {
        "seconds": round(time.perf_counter() - started, 1),
        # Medians of the second and of the last quarter. The first quarter is start-up.
        "memory_mb_early": round(statistics.median(samples[quarter : 2 * quarter] or [0])),
        "memory_mb_late": round(statistics.median(samples[3 * quarter :])),
        "memory_mb_peak": round(max(samples)),
        **{name: facts[name] for name in ("samples", "string_rule", "by_found_by", "unknown_by_reason", "given")},
        "by_level": facts["by_level"],
    }


def watch(job, samples):
    """Unique memory of the processes that grade, in MB, twice a second."""
    while job.poll() is None:
        total = 0
        for process in [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]:
            try:
                if any(name in part for part in process.cmdline() for name in NAMES):
                    total += process.memory_full_info().uss
            except psutil.Error:
                continue
        samples.append(total / 2**20)
        time.sleep(0.5)


def main():
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, corpus_format) in CORPORA.items():
            results[name] = measure(SHARED_DATA / path, corpus_format, f"{folder}/{corpus_format}-{len(results)}")
            print(name, json.dumps(results[name])[:300], flush=True)
        planted = Path(folder) / "planted.jsonl"
        rows = [{"question": f"q{n}", "answer": "2", "samples": [text, r"\boxed{2}"]} for n, text in enumerate(PLANTED)]
        planted.write_text("\n".join(map(json.dumps, rows)))
        results["planted"] = measure(planted, "samples", f"{folder}/planted")
    print(write_result("grade_corpora", {"corpora": results}).read_text())


if __name__ == "__main__":
    main()
