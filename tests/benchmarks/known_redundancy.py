"""Which steps each criterion removes, on chains whose redundant steps are known.

    python -m tests.benchmarks.known_redundancy [--chains 12] [--families al1 nbc] [--only NAME...]

Seven families: five kinds of made problems, GSM8K's own solutions of its test split, and solutions of MATH problems by
GPT-4, the last two with redundant sentences put into them. Every criterion removes steps, in its order, until its
rating reaches the largest threshold; each smaller one would have stopped earlier in the same order. Precision is the
share of removed steps that are redundant, recall the share of redundant steps that are removed; a step of a real
solution that says nothing new counts as needed all the same, so that precision there is a lower bound. A number over
several families is the mean of theirs. Intervals are those of a bootstrap over chains, within families.

Writes results/known_redundancy.json and docs/images/known-redundancy.svg. The removals are kept in
runs/known_redundancy.json: with the same number of chains, a long measurement goes on where it ended.
"""

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from actors.scoring.forest_scorer import ForestScorer
from algorithms.chains import Chain
from algorithms.formats import parse_record
from algorithms.grading import grade
from algorithms.refinement.policy import RECIPES, Policy
from algorithms.tasks.catalogue import TASKS, make_problem
from algorithms.tasks.mark_text import mark_chain
from jobs.reports import plots
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.refining import refine_together

KEPT = Path("runs/known_redundancy.json")
SEED = 0
GROUP = 10  # chains that share passes
LARGEST = 1.3  # threshold
THRESHOLDS = (0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03, 1.05, 1.08, 1.1, 1.15, 1.2, 1.25, LARGEST)
RATIOS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
RESAMPLES = 1000
WANTED = 0.98  # precision

ALL = Policy(t1=LARGEST, t2=LARGEST, unmerged="stop")
CRITERIA = {
    "spirit completion, guarded": replace(ALL, scope="completion"),
    "guard alone": replace(ALL, criterion="random", remove_ratio=0.99, scope="completion"),
    "random": replace(ALL, criterion="random", remove_ratio=0.99, scope="completion", keep_used=False),
    "surprisal": replace(ALL, criterion="surprisal", remove_ratio=0.99, scope="completion", keep_used=False),
    "spirit suffix, guarded": replace(ALL, scope="suffix"),
    "pir": replace(ALL, criterion="pir", scope="answer", keep_used=False),
    "spirit completion": replace(ALL, scope="completion", keep_used=False),
    "spirit suffix": replace(ALL, scope="suffix", keep_used=False),
    "spirit answer, guarded": replace(ALL, scope="answer"),
    "spirit full": replace(ALL, scope="full", keep_used=False),
    "spirit answer": replace(ALL, scope="answer", keep_used=False),
}


def problems_of(family, number):
    """Marked problems of a family."""
    if family in TASKS:
        return [make_problem(family, SEED, index) for index in range(number)]
    return list(itertools.islice(_marked(_gsm8k() if family == "gsm8k" else _math()), number))


def _gsm8k():
    for line in (SHARED_DATA / "gsm8k/test.jsonl").read_text("utf-8").splitlines():
        yield parse_record(json.loads(line), "gsm8k", {}, None)


def _math():
    """Right solutions, split into sentences."""
    for row in pq.read_table(SHARED_DATA / "math_teacher/gpt-4.parquet").slice(0, 4000).to_pylist():
        text = next((each for each in row["generated_answer"] if "\\boxed{" in each and 200 < len(each) < 900), None)
        if text is not None and grade(row["question"], row["answer"], text, last_number=False).correct:
            yield parse_record({"problem": row["question"], "solution": text}, "math", {}, "sentence")


def _marked(chains):
    for index, chain in enumerate(chains):
        if 3 <= len(chain.steps) <= 16:
            problem = mark_chain(chain, SEED, index)
            if problem.redundant:
                yield problem


FAMILIES = (*TASKS, "gsm8k", "math")


def orders_of(scorer, problems, policy):
    """For each problem: the number of its redundant steps, and the removed steps in order as (rating, is redundant)."""
    chains = [Chain(problem.question, problem.steps, problem.answer) for problem in problems]
    orders = []
    for first in range(0, len(chains), GROUP):
        refined, _, _ = refine_together(scorer, chains[first : first + GROUP], policy)
        for problem, refinement in zip(problems[first : first + GROUP], refined, strict=True):
            left = list(range(len(problem.steps)))
            redundant = set(problem.redundant)
            order = []
            for edit in refinement.edits:
                index = left.pop(edit.index)
                order.append([edit.ratio, index in redundant])
            orders.append({"steps": len(problem.steps), "redundant": len(redundant), "order": order})
    return {"orders": orders}


def counts_at(measured, threshold, by_ratio):
    """(right, removed, redundant) of each chain [N, 3]. `threshold`: of the rating, or the share of steps removed."""
    counts = []
    for each in measured["orders"]:
        order = each["order"]
        if by_ratio:
            gone = order[: round(threshold * each["steps"])]
        else:
            gone = list(itertools.takewhile(lambda edit: edit[0] < threshold, order))
        counts.append((sum(is_redundant for _, is_redundant in gone), len(gone), each["redundant"]))
    return np.array(counts)


def rates(counts):
    """Precision and recall over chains [..., N, 3]; 1 where nothing is removed, or nothing is redundant."""
    right, removed, redundant = np.moveaxis(counts.sum(axis=-2), -1, 0)
    recall = np.where(redundant > 0, right / np.maximum(redundant, 1), 1.0)
    return np.where(removed > 0, right / np.maximum(removed, 1), 1.0), recall


def point(families, threshold, by_ratio):
    """Mean precision and recall of the families at a threshold, with 95% intervals."""
    chance = np.random.default_rng(0)
    values, resampled = [], []
    for measured in families.values():
        counts = counts_at(measured, threshold, by_ratio)
        values.append(rates(counts))
        drawn = chance.integers(len(counts), size=(RESAMPLES, len(counts)))
        resampled.append(rates(counts[drawn]))
    found = {"threshold": threshold}
    for place, name in enumerate(("precision", "recall")):
        low, high = np.quantile(np.mean([each[place] for each in resampled], axis=0), (0.025, 0.975))
        found[name] = [round(float(each), 3) for each in (np.mean([each[place] for each in values]), low, high)]
    return found


def curve(families, by_ratio):
    return [point(families, threshold, by_ratio) for threshold in (RATIOS if by_ratio else THRESHOLDS)]


def best(points):
    """The point with the largest recall of those whose precision is wanted."""
    good = [each for each in points if each["precision"][0] >= WANTED and each["recall"][0] > 0]
    return max(good, key=lambda each: each["recall"][0], default=None)


def summary_of(measured):
    """Curves over all families, the best point of each criterion, and the default's point in each family."""
    default = RECIPES["sluice"]
    name = f"spirit {default.scope}, guarded" if default.keep_used else f"spirit {default.scope}"
    summary = {}
    for criterion, families in measured.items():
        by_ratio = CRITERIA[criterion].remove_ratio is not None
        points = curve(families, by_ratio)
        summary[criterion] = {"families": list(families), "best": best(points), "points": points}
    here = {family: point({family: each}, default.t1, False) for family, each in measured.get(name, {}).items()}
    every = point(measured[name], default.t1, False) if name in measured else None
    return {"default": {"criterion": name, "all": every, "families": here}, "criteria": summary}


def draw(summary):
    drawn, axes = plots.figure()
    drawn.set_size_inches(7, 4.6)
    for place, (name, each) in enumerate(summary["criteria"].items()):
        points = [point for point in each["points"] if point["recall"][0] > 0]
        style = "-" if "guard" in name else "--"
        recall, precision = ([point[what][0] for point in points] for what in ("recall", "precision"))
        axes.plot(recall, precision, style, marker=".", markersize=4, linewidth=1.1, color=f"C{place % 10}", label=name)
    default = summary["default"]["all"]
    if default:
        axes.plot(default["recall"][0], default["precision"][0], "k*", markersize=11, label="the default")
    axes.axhline(WANTED, color=plots.GREY, linewidth=0.8)
    axes.legend(frameon=False, fontsize=7, loc="center right")
    path = Path("docs/images/known-redundancy.svg")
    path.write_text(plots.svg(drawn, axes, "recall", "precision"))
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", type=int, default=12)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--only", nargs="+", choices=list(CRITERIA), default=list(CRITERIA))
    options = parser.parse_args()
    before = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    measured = before.get("measured", {}) if before.get("chains") == options.chains else {}
    scorer = None
    for criterion, family in itertools.product(options.only, options.families):
        if family in measured.get(criterion, {}):
            continue
        scorer = scorer or ForestScorer("smollm2", dtype="float32")
        found = orders_of(scorer, problems_of(family, options.chains), CRITERIA[criterion])
        measured.setdefault(criterion, {})[family] = found
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps({"chains": options.chains, "measured": measured}))
        last = point(
            {family: found}, 0.25 if CRITERIA[criterion].remove_ratio else 1.0, bool(CRITERIA[criterion].remove_ratio)
        )
        print(criterion, family, last, flush=True)
    summary = summary_of({name: measured[name] for name in options.only})
    write_result("known_redundancy", {"chains": options.chains, **summary})
    print(json.dumps(summary["default"], indent=1))
    for name, each in summary["criteria"].items():
        print(f"{name:28}", each["best"])
    print(draw(summary))


if __name__ == "__main__":
    main()
