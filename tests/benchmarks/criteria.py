"""Every criterion on the same GSM8K solutions at the same share of removed steps: perplexity, length, cost.

    python -m tests.benchmarks.criteria [--rows 200] [--ratio 0.25]

Perplexity is that of reasoning and answer, before and after, whatever the criterion scores itself: geometric means of
after / before over the rows, with the 95% interval of a bootstrap. Seconds are those of scoring, in one process.
"""

import argparse
import json
import time
from dataclasses import replace

import numpy as np

from actors.models.source import ModelSource
from actors.scoring.forest_scorer import ForestScorer
from algorithms.formats import parse_record
from algorithms.refinement.draft import Draft
from algorithms.refinement.policy import Policy
from algorithms.refinement.requests import ScoreRequest
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.refining import prepare, refine_together

GROUP = 10  # chains that share passes
RESAMPLES = 2000
PLAIN = Policy(scope="completion", keep_used=False)


def criteria(ratio):
    """The policies by name. The guard alone decides how much may go, so guarded ones remove less."""
    return {
        "spirit": replace(PLAIN, remove_ratio=ratio),
        "spirit, scope suffix": replace(PLAIN, scope="suffix", remove_ratio=ratio),
        "pir": replace(PLAIN, criterion="pir", scope="answer", remove_ratio=ratio),
        "surprisal": replace(PLAIN, criterion="surprisal", remove_ratio=ratio),
        "random": replace(PLAIN, criterion="random", remove_ratio=ratio),
        "spirit, guarded": replace(PLAIN, keep_used=True, remove_ratio=ratio),
        "random, guarded": replace(PLAIN, criterion="random", keep_used=True, remove_ratio=ratio),
        "the default": Policy(),
    }


def ppl_of_completions(scorer, chains):
    """The perplexity of each chain's reasoning and answer."""
    ppls = []
    for first in range(0, len(chains), GROUP):
        drafts = [Draft(chain, PLAIN) for chain in chains[first : first + GROUP]]
        requests = [ScoreRequest((draft.variant(draft.steps()),)) for draft in drafts]
        ppls += [scored.perplexities[0] for scored in scorer.score([prepare(scorer, each) for each in requests])]
    return np.array(ppls)


def interval(values):
    """The mean, with the 95% interval of a bootstrap over rows."""
    chance = np.random.default_rng(0)
    means = values[chance.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    return [float(value) for value in (values.mean(), *np.quantile(means, (0.025, 0.975)))]


def measure(scorer, tokenizer, chains, before, policy):
    refined, forwarded = [], 0
    started, spent = time.perf_counter(), scorer.forward_seconds
    for first in range(0, len(chains), GROUP):
        found, tokens, _ = refine_together(scorer, chains[first : first + GROUP], policy)
        refined += found
        forwarded += tokens
    seconds, spent = time.perf_counter() - started, scorer.forward_seconds - spent
    after = [
        replace(chain, steps=each.steps, separators=each.separators)
        for chain, each in zip(chains, refined, strict=True)
    ]
    change = np.log(ppl_of_completions(scorer, after) / before)
    lengths = [sum(len(tokenizer.encode(chain.text).ids) for chain in each) for each in (chains, after)]
    return {
        "steps_removed": sum(len(each.edits) for each in refined),
        "tokens": lengths,
        "ppl_ratio": [round(float(np.exp(value)), 4) for value in interval(change)],
        "tokens_forwarded": forwarded,
        "forward_seconds": round(spent, 1),
        "seconds": round(seconds, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--ratio", type=float, default=0.25)
    options = parser.parse_args()
    lines = (SHARED_DATA / "gsm8k/test.jsonl").read_text("utf-8").splitlines()[: options.rows]
    chains = [parse_record(json.loads(line), "gsm8k", {}, None) for line in lines]
    scorer = ForestScorer("smollm2", dtype="float32")
    tokenizer = ModelSource("smollm2").tokenizer.backend_tokenizer
    before = ppl_of_completions(scorer, chains)
    results = {}
    for name, policy in criteria(options.ratio).items():
        results[name] = measure(scorer, tokenizer, chains, before, policy)
        print(name, results[name], flush=True)
    numbers = {"rows": len(chains), "steps": sum(len(chain.steps) for chain in chains), "ratio": options.ratio}
    print(write_result("criteria", numbers | {"criteria": results}).read_text())


if __name__ == "__main__":
    main()
