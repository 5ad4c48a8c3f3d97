"""One large file, JSON lines and then Parquet, through a run that is killed five times at random moments.

    python -m tests.benchmarks.large_files [--megabytes 2000]

Measured for each format: the parts that are read in parallel, the time with all its kills, and the rows that were begun
more than once. Fails unless every row has exactly one record. A table of numbers replaces the model, and random text in
a column of its own makes the rows long.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from actors.runs.folder import open_run_folder
from actors.runs.records import RecordStore
from algorithms.tasks.catalogue import make_problem
from jobs.driver import inputs, reading
from tests.benchmarks.measured import write_result
from tests.fixtures.runs import kill_all, start

KILLS = 5
TEXT_BYTES = 4000  # of random text in each row
ROWS_PER_GROUP = 2000
SECONDS_TO_LIVE = (25.0, 45.0)  # from the start of a run that is killed


def rows(count):
    """Generated problems with random text beside them."""
    chance = random.Random(7)
    for index in range(count):
        problem = make_problem("word-problems", 1, index)
        yield {
            "question": f"#{index} {problem.question}",
            "steps": list(problem.steps),
            "answer": problem.answer,
            "text": chance.randbytes(TEXT_BYTES // 2).hex(),
        }


def write_jsonl(path, count):
    with path.open("w") as file:
        for row in rows(count):
            file.write(json.dumps(row) + "\n")


def write_parquet(path, count):
    waiting, source = [], rows(count)
    with pq.ParquetWriter(path, pa.Table.from_pylist([next(rows(1))]).schema, compression="none") as writer:
        for row in source:
            waiting.append(row)
            if len(waiting) == ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting))


def num_parts(source):
    """In how many pieces the file is read."""
    try:
        return len(reading.plan_reading(inputs.open_corpus(str(source), "steps", {}, None, None, None)))
    finally:
        ray.shutdown()


def measure(folder, source, count):
    """Refine one file, killed `KILLS` times."""
    log, output = folder / f"{source.suffix[1:]}-log", folder / f"{source.suffix[1:]}-run"
    log.mkdir()
    arguments = ["tests.fixtures.table_refine", log, 0, "--input", source, "--output", output, "--num-actors", 2,
                 "--t1", 0.1, "--t2", 0.1, "--token-budget", 1 << 16]  # fmt: skip
    chance = random.Random(11)
    began = time.monotonic()
    committed = []
    for _ in range(KILLS):
        job = start(*arguments)
        time.sleep(chance.uniform(*SECONDS_TO_LIVE))
        assert job.poll() is None, "the run ended before it was killed"
        kill_all(job)
        committed.append(RecordStore(open_run_folder(str(output))).totals().num_rows)
    job = start(*arguments)
    assert job.wait() == 0
    seconds = time.monotonic() - began
    ids = Counter()
    for batch in RecordStore(open_run_folder(str(output))).batches(columns=["id"]):
        ids.update(batch["id"].to_pylist())
    assert ids == Counter(f"{source.name}:{number}" for number in range(count))
    begun = Counter(line for path in log.iterdir() for line in path.read_text().splitlines())
    facts = {
        "megabytes": source.stat().st_size // 10**6,
        "parts": num_parts(source),
        "rows": count,
        "rows_committed_at_each_kill": committed,
        "seconds": round(seconds, 1),
        "percent_of_rows_again_for_each_kill": round(100 * (sum(begun.values()) - len(begun)) / count / KILLS, 2),
    }
    print(source.suffix, facts, flush=True)
    return facts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000)
    options = parser.parse_args()
    count = options.megabytes * 10**6 // TEXT_BYTES
    facts = {}
    with tempfile.TemporaryDirectory() as temporary:
        for suffix, write in {".jsonl": write_jsonl, ".parquet": write_parquet}.items():
            source = Path(temporary) / f"c{suffix}"
            write(source, count)
            facts[suffix] = measure(Path(temporary), source, count)
            print(write_result("large_files", facts).read_text())


if __name__ == "__main__":
    main()
