"""What refining costs: Sluice against the plain loop, and against one padded batch a round, in one run.

    python -m tests.benchmarks.refine_cost [--rows 100] [--input FILE]

All three follow `--recipe digest` in float32 and must end with the same steps. They take turns on groups of rows, so
that a slowdown of the machine affects all three.
"""

import argparse
import itertools
import json
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.models.source import ModelSource
from actors.scoring.forest_scorer import ForestScorer
from algorithms.formats import parse_record
from algorithms.refinement.policy import RECIPES
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.plain_loop import PlainLoop
from tests.fixtures.refining import refine_together

GROUP = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--input", default=str(SHARED_DATA / "gsm8k" / "train.jsonl"))
    options = parser.parse_args()
    with open(options.input) as lines:
        records = [json.loads(line) for line in itertools.islice(lines, options.rows)]
    chains = [parse_record(record, "gsm8k", {}, None) for record in records]
    scorer = ForestScorer("smollm2", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(ModelSource("smollm2").path)
    model = AutoModelForCausalLM.from_pretrained(ModelSource("smollm2").path, dtype=torch.float32).eval()
    loops = {"plain_loop": PlainLoop(model, tokenizer), "padded_batch": PlainLoop(model, tokenizer, padded=True)}
    refine_together(scorer, chains[:1], RECIPES["digest"])  # warm up
    for loop in loops.values():
        loop.refine(chains[0].question, chains[0].steps)
        loop.tokens = 0

    seconds = dict.fromkeys(["forest", *loops], 0.0)
    tokens_forest = different = 0
    for first in range(0, len(chains), GROUP):
        group = chains[first : first + GROUP]
        started = time.perf_counter()
        refined, forwarded, _ = refine_together(scorer, group, RECIPES["digest"])
        seconds["forest"] += time.perf_counter() - started
        tokens_forest += forwarded
        for name, loop in loops.items():
            started = time.perf_counter()
            others = [loop.refine(chain.question, chain.steps) for chain in group]
            seconds[name] += time.perf_counter() - started
            different += sum(list(one.steps) != other for one, other in zip(refined, others, strict=True))
        print({name: round(value, 1) for name, value in seconds.items()}, flush=True)

    tokens = {"forest": tokens_forest, **{name: loop.tokens for name, loop in loops.items()}}
    path = write_result(
        "refine_cost",
        {
            "rows": len(chains),
            "model": "smollm2, float32",
            "tokens": tokens,
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "token_ratio": {name: round(tokens[name] / tokens_forest, 2) for name in loops},
            "time_ratio": {name: round(seconds[name] / seconds["forest"], 2) for name in loops},
            "rows_with_different_steps": different,
        },
    )
    print(path.read_text())


if __name__ == "__main__":
    main()
