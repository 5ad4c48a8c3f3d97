"""How much of its time a scorer computes while rows wait for a slow merger.

    python -m tests.benchmarks.merge_wait [--rows 600] [--seconds 0 2]

Refiner and ledger are real. The scorer looks perplexities up in a table and sleeps 50 ms a pass; the merger answers
after `--seconds`. `rows_waiting` is what `--merge openai` grants with its default concurrency, and 0 beside it: then
rows that wait take the places of rows that could be scored.
"""

import argparse
import asyncio
import tempfile
import time

import pyarrow as pa

from actors.refiner import Refiner, RefinerOptions
from actors.runs.corpus import CHAIN_SCHEMA
from actors.runs.folder import open_run_folder
from actors.runs.records import RecordStore
from actors.runs.session import begin_session
from algorithms.refinement.policy import Policy
from tests.benchmarks.measured import write_result
from tests.fixtures.rows import chain_row
from tests.fixtures.scripted_merger import ScriptedMerger
from tests.fixtures.table_scorer import TableScorer

PASS_SECONDS = 0.05
TOKEN_BUDGET = 1024
ROWS_WAITING = 64
POLICY = Policy(t1=0.9, t2=1.3, scope="completion", unmerged="keep", ask_merger=True)
STEPS = ["Look at the numbers.", "Look at the numbers once more.", "Now add them.", "Add them all.", "So it is done."]


class TimedScorer(TableScorer):
    """Remembers when its passes began and ended."""

    def __init__(self):
        super().__init__(PASS_SECONDS, TOKEN_BUDGET)
        self.passes = []

    def score(self, tasks):
        started = time.perf_counter()
        found = super().score(tasks)
        self.passes.append((started, time.perf_counter()))
        return found


def measure(num_rows, seconds, num_waiting):
    scorer, merger = TimedScorer(), ScriptedMerger(seconds)
    rows = [chain_row(number, steps=[*STEPS, f"The answer is {number}."]) for number in range(num_rows)]
    batches = [pa.Table.from_pylist(rows[i : i + 20], schema=CHAIN_SCHEMA) for i in range(0, num_rows, 20)]

    async def refine(actor):
        await asyncio.gather(*map(actor, batches))

    with tempfile.TemporaryDirectory() as folder:
        run = open_run_folder(folder)
        begin_session(run, "s")
        actor = Refiner(lambda: scorer, RefinerOptions(POLICY, 0.0, lambda *_: merger, num_waiting), run, "s")
        asyncio.run(refine(actor))
        found = RecordStore(run).totals().num_rows
    # The last rows have nothing to wait beside them: the run's end is not its rate.
    passes = scorer.passes[: len(scorer.passes) * 9 // 10]
    wall = passes[-1][1] - passes[0][0]
    forward = sum(ended - started for started, ended in passes)
    return {
        "merge_seconds": seconds,
        "rows_waiting": num_waiting,
        "rows": found,
        "merges": merger.num_asked,
        "most_merges_at_once": merger.most_waiting,
        "passes": len(scorer.passes),
        "share_in_forward": round(forward / wall, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.0, 2.0])
    options = parser.parse_args()
    runs = []
    for seconds in options.seconds:
        for num_waiting in (0, ROWS_WAITING):
            runs.append(measure(options.rows, seconds, num_waiting))
            print(runs[-1], flush=True)
    print(write_result("merge_wait", {"milliseconds_a_pass": 50, "runs": runs}).read_text())


if __name__ == "__main__":
    main()
