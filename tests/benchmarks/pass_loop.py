"""How much of its time a GPU would compute: the whole pass loop, with a forward that only sleeps.

    python -m tests.benchmarks.pass_loop [--processes 0 1 2]

Refiner, ledger, tokenizer and forests are real, and the scorer's thread does what the real one does on the host
between passes. In place of the model it sleeps 60 ms for 7,000 new tokens: a forward pass of 1.5 billion parameters
over them takes 2 * 1.5e9 * 7,000 = 21 TFLOP, which is 53 ms at 40% of the 989 TFLOP/s that an H100 has in bfloat16.
"short" chains have forests of about 7,000 tokens, "long" ones have 60 steps and 3,000 tokens. Every chain is scored in
three rounds.
0 processes: requests are prepared in a thread.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time

import numpy as np
import psutil
import pyarrow as pa
import torch

from actors.models.source import ModelSource
from actors.refiner import Refiner, RefinerOptions
from actors.runs.corpus import CHAIN_SCHEMA
from actors.runs.folder import open_run_folder
from actors.runs.session import begin_session
from actors.scoring.attention import mask_arrays
from actors.scoring.forest_task import ForestTask, KeptState
from actors.scoring.head import want_losses
from actors.scoring.preparers import ProcessPreparer, ThreadPreparer
from actors.scoring.protocol import Scored
from algorithms.perplexity import perplexity
from algorithms.refinement.policy import Policy
from tests.benchmarks.measured import write_result
from tests.fixtures.rows import chain_row

SECONDS_PER_TOKEN = 0.060 / 7000
TOKEN_BUDGET = 7000
ROUNDS = 3
CHAINS = {"short": (16, 150), "long": (60, 14)}  # steps of a chain, number of chains
TOKENS_PER_STEP = 50
WORDS = ("the", "sum", "of", "all", "apples", "is", "then", "we", "add", "and", "multiply", "by", "total", "so", "that")


class SleepingScorer:
    """Scores without a model. In each of its rounds, a chain loses a random step."""

    def __init__(self, preparer):
        self.token_budget = TOKEN_BUDGET
        self.num_preparing = preparer.num_at_once
        self.preparer = preparer
        self.passes = []  # (started, ended, tokens)
        self.tokens_naive = 0
        self._chance = random.Random(0)
        self._rounds = {}

    async def prepare(self, request, after=None):
        task = ForestTask(await self.preparer.prepare(request))
        self._rounds[task] = self._rounds.pop(after, 0) + 1
        if after is not None:
            task.reuse(after)
        return task

    def score(self, tasks):
        for task in tasks:
            task.take_over()
        costs = [task.num_new_tokens for task in tasks]
        left = sum(costs)
        for task in tasks:
            nodes, kept = task.todo, task.state.nodes
            mask_arrays(task, nodes)
            wanted = want_losses(task.forest, np.concatenate([kept, nodes]), nodes[task.needed[nodes]])
            task.losses[wanted.nodes] = 1.0
            task.state = task.state.append(KeptState(nodes, [], [], torch.zeros(len(nodes), 1)), 0)
            task.todo = nodes[:0]
        started = time.perf_counter()
        time.sleep(left * SECONDS_PER_TOKEN)
        self.passes.append((started, time.perf_counter(), left))
        return [self._result(task, cost) for task, cost in zip(tasks, costs, strict=True)]

    def _result(self, task, cost):
        for nodes in task.scored:
            perplexity(task.losses[nodes])
        without = [20.0] * (len(task.scored) // 2)
        if self._rounds[task] < ROUNDS:
            without[self._chance.randrange(len(without))] = 9.0
        self.tokens_naive += task.tokens_naive
        return Scored([10.0, *(ppl for each in without for ppl in (each, 10.0))], cost, task.tokens_naive)

    async def count_tokens(self, texts):
        return await self.preparer.count_tokens(texts)


def make_rows(num_steps, num_chains):
    chance = random.Random(1)

    def step():
        words = (str(chance.randrange(1000)) if chance.random() < 0.2 else chance.choice(WORDS) for _ in range(99))
        return " ".join(words)[: TOKENS_PER_STEP * 4].strip() + "."

    return [
        chain_row(number, question=step(), steps=[step() for _ in range(num_steps)], answer="no step states it")
        for number in range(num_chains)
    ]


async def refine(actor, rows):
    batches = [pa.Table.from_pylist(rows[i : i + 10], schema=CHAIN_SCHEMA) for i in range(0, len(rows), 10)]
    await asyncio.gather(*(actor(batch) for batch in batches))


def cpu_seconds():
    """Processor seconds of this process, and of all its children."""
    children = psutil.Process().children(recursive=True)
    return time.process_time(), sum(sum(child.cpu_times()[:2]) for child in children)


def measure(source, rows, num_processes):
    tokenizer = source.tokenizer.backend_tokenizer
    preparer = (
        ProcessPreparer(tokenizer, 1 << 20, num_processes) if num_processes else ThreadPreparer(tokenizer, 1 << 20)
    )
    scorer = SleepingScorer(preparer)
    asyncio.run(preparer.count_tokens(["start the processes"]))
    with tempfile.TemporaryDirectory() as folder:
        run = open_run_folder(folder)
        begin_session(run, "s")
        actor = Refiner(lambda: scorer, RefinerOptions(Policy(scope="suffix", keep_used=False)), run, "s")
        before = cpu_seconds()
        asyncio.run(refine(actor, rows))
        own, preparing = (after - start for after, start in zip(cpu_seconds(), before, strict=True))
    preparer.close()
    forward = sum(ended - started for started, ended, _ in scorer.passes)
    wall = scorer.passes[-1][1] - scorer.passes[0][0]
    tokens = sum(tokens for *_, tokens in scorer.passes)
    return {
        "preparing_processes": num_processes,
        "passes": len(scorer.passes),
        "tokens_forwarded": tokens,
        "tokens_tokenized": scorer.tokens_naive,
        "forward_seconds": round(forward, 2),
        "wall_seconds": round(wall, 2),
        "share_in_forward": round(forward / wall, 3),
        "actor_cpu_seconds_per_forward_second": round(own / forward, 3),
        "preparing_cpu_seconds_per_forward_second": round(preparing / forward, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    source = ModelSource("smollm2")
    results = {}
    for name, (num_steps, num_chains) in CHAINS.items():
        rows = make_rows(num_steps, num_chains)
        results[name] = []
        for num_processes in options.processes:
            results[name].append(measure(source, rows, num_processes))
            print(name, results[name][-1], f"load {os.getloadavg()[0]:.1f}", flush=True)
    numbers = {"milliseconds_for_7000_tokens": 60, "rounds": ROUNDS, "chains": results}
    print(write_result("pass_loop", numbers).read_text())


if __name__ == "__main__":
    main()
