"""Which steps each scope removes, on generated chains whose redundant steps are known.

    python -m tests.benchmarks.scopes [--rows 24] [--families short long]

Precision is the share of removed steps that are redundant, recall the share of redundant steps that are removed. The
intervals are those of a bootstrap over chains. The control removes as many steps of each chain as the first scope does,
chosen by chance.
"""

import argparse
import dataclasses
import random

from actors.scoring.forest_scorer import ForestScorer
from algorithms.chains import Chain
from algorithms.refinement import Policy
from algorithms.tasks.catalogue import make_problem
from tests.benchmarks.measured import write_result
from tests.fixtures.refining import refine_together

FAMILIES = {"short": "easy", "long": "hard"}  # difficulties of word problems
SCOPES = ("suffix", "completion", "answer", "full")
GROUP = 10
RESAMPLES = 2000


def removed_steps(chain, refinement):
    """The indices, in the original chain, of the steps that a refinement removed."""
    left = list(range(len(chain.steps)))
    return {left.pop(edit.index) for edit in refinement.edits}


def measure(removed, redundant):
    """Precision and recall over all chains, each with a 95% interval."""
    counts = [(len(gone & empty), len(gone), len(empty)) for gone, empty in zip(removed, redundant, strict=True)]
    chooser = random.Random(0)
    resampled = [ratios(chooser.choices(counts, k=len(counts))) for _ in range(RESAMPLES)]
    found = {"removed": sum(gone for _, gone, _ in counts)}
    for name, value, values in zip(("precision", "recall"), ratios(counts), zip(*resampled, strict=True), strict=True):
        low, high = (sorted(values)[round(quantile * (RESAMPLES - 1))] for quantile in (0.025, 0.975))
        found[name] = [round(each, 3) for each in (value, low, high)]
    return found


def ratios(counts):
    hits, gone, empty = (sum(column) for column in zip(*counts, strict=True))
    return hits / max(1, gone), hits / max(1, empty)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options = parser.parse_args()
    scorer = ForestScorer("smollm2", dtype="float32")
    results = {}
    for family in options.families:
        difficulty = FAMILIES[family]
        problems = [make_problem("word-problems", 11, index, difficulty=difficulty) for index in range(options.rows)]
        chains = [Chain(problem.question, problem.steps, problem.answer) for problem in problems]
        redundant = [set(problem.redundant) for problem in problems]
        found = {}
        for scope in SCOPES:
            policy = dataclasses.replace(Policy(), scope=scope)
            removed = []
            for first in range(0, len(chains), GROUP):
                refinements, _, _ = refine_together(scorer, chains[first : first + GROUP], policy)
                removed += map(removed_steps, chains[first : first + GROUP], refinements)
            found[scope] = measure(removed, redundant)
            if scope == SCOPES[0]:
                numbers = [
                    random.Random(i).sample(range(len(c.steps) - 1), len(removed[i])) for i, c in enumerate(chains)
                ]
                found["by chance"] = measure([set(chosen) for chosen in numbers], redundant)
            print(family, scope, found[scope], flush=True)
        results[family] = found
    print(write_result("scopes", {"rows": options.rows, "families": results}).read_text())


if __name__ == "__main__":
    main()
