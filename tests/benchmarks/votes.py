"""Rankers, votes and stopping rules on real samples: both teachers' on MATH, and GSM8K's model solutions.

    python -m tests.benchmarks.votes

Grades the shared corpora as a user does. Rankers are cross-validated over all problems, by problem: five folds, and in
the other folds 15% of the problems for early stopping and calibration. Their scores become ranked runs, which
`jobs.evaluate` evaluates with --split all: no score of a problem comes from a ranker that saw it. Also: each group of
features left out and alone, a learning curve, and rankers trained on one teacher and tested on the other. Takes about
25 minutes on two cores.
"""

import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.ranking.fitting import BoostingPlan
from actors.runs.corpus import id_hash
from algorithms.ranking.calibration import fit_calibration
from algorithms.ranking.features import GROUPS, feature_matrix, feature_names
from algorithms.ranking.metrics import area_under_curve, count_pairs, reliability
from algorithms.ranking.solutions import Solution
from algorithms.splits import plain_question
from algorithms.voting.intervals import resampled_means
from tests.benchmarks.grade_corpora import CORPORA
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.runs import ROOT

FOLDS = 5
INNER = 0.15  # of the training problems, for early stopping and calibration
FRACTIONS = (0.1, 0.25, 0.5, 1.0)  # of the learning curve
PLAN = BoostingPlan(tuple(GROUPS), 2000, 50, 0.03, 31, 100, 0, 2)  # the defaults of jobs.train
COLUMNS = ("question", "rationale", "answer", "correct", "status")
TEACHERS = ("gpt-3.5-turbo", "gpt-4")
BUDGETS = (2, 3, 4, 5, 6, 6.8, 8, 10, 12)  # samples at which curves are compared
TOLERANCE = 0.0025


@dataclass
class Samples:
    """The graded samples of one corpus that have a text: features [N, F], grades, and hashes of their problems."""

    run: Path
    places: np.ndarray  # among the records of the run
    features: np.ndarray
    right: np.ndarray
    known: np.ndarray
    problems: np.ndarray

    @property
    def fold(self):
        """The same fold for a problem in every corpus."""
        return (self.problems % np.uint64(1_000_003) % np.uint64(FOLDS)).astype(int)

    @property
    def place_in_fold(self):
        """A number from 0 to 1 for each problem, the same in every corpus."""
        return ((self.problems >> np.uint64(20)) % np.uint64(10_000)).astype(float) / 10_000


def verb(*args):
    """Run a verb as a user does."""
    subprocess.run([sys.executable, "-m", *map(str, args)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def features_of(solutions):
    return feature_matrix([Solution(*each) for each in solutions])


def load(run, processes):
    """The samples of a graded run."""
    table = pq.read_table(run / "rows", columns=list(COLUMNS))
    rows = table.to_pylist()
    places = [n for n, row in enumerate(rows) if row["status"] != "quarantined" and row["rationale"] is not None]
    kept = [rows[n] for n in places]
    texts = [(row["question"], row["rationale"], row["answer"]) for row in kept]
    parts = processes.map(features_of, [texts[start : start + 500] for start in range(0, len(texts), 500)])
    return Samples(
        run,
        np.array(places),
        np.concatenate(parts),
        np.array([row["correct"] is True for row in kept]),
        np.array([row["correct"] is not None for row in kept]),
        np.array([id_hash(plain_question(row["question"])) for row in kept], dtype=np.uint64),
    )


def cross_validated(tested, trained, groups=tuple(GROUPS), fraction=1.0):
    """Scores of the samples in `tested` by rankers that were trained on other problems of the corpora in `trained`."""
    columns = [n for n, name in enumerate(feature_names()) if name.split(".")[0] in groups]
    features, right, known, fold, place = (
        np.concatenate([getattr(each, name) for each in trained])
        for name in ("features", "right", "known", "fold", "place_in_fold")
    )
    scores = np.full(len(tested.right), np.nan)
    for number in range(FOLDS):
        usable = known & (fold != number)
        train = usable & (place >= INNER) & (place < INNER + (1 - INNER) * fraction)
        inner = usable & (place < INNER)
        data = lightgbm.Dataset(features[train][:, columns], right[train])
        booster = lightgbm.train(
            PLAN.parameters(),
            data,
            num_boost_round=PLAN.num_trees,
            valid_sets=[lightgbm.Dataset(features[inner][:, columns], right[inner], reference=data)],
            callbacks=[lightgbm.early_stopping(PLAN.patience, verbose=False)],
        )
        calibration = fit_calibration(booster.predict(features[inner][:, columns]), right[inner])
        mine = tested.fold == number
        scores[mine] = calibration(booster.predict(tested.features[mine][:, columns]))
    return scores


def measured(scores, samples) -> dict[str, Any]:
    """Pair accuracy with its interval from a bootstrap over problems, AUC, calibration error."""
    scores, right, problems = scores[samples.known], samples.right[samples.known], samples.problems[samples.known]
    pairs = count_pairs(scores, right, problems)
    means = resampled_means(np.stack([pairs.won, pairs.pairs], axis=1))
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    return {
        "pair_accuracy": {"mean": pairs.accuracy, "low": float(low), "high": float(high)},
        "area_under_curve": area_under_curve(scores, right),
        "calibration_error": reliability(scores, right).expected_error,
    }


def write_ranked(samples, scores, output):
    """The graded run with a column `score`, as jobs.rank writes it."""
    table = pq.read_table(samples.run / "rows")
    column = np.full(table.num_rows, np.nan)
    column[samples.places] = scores
    (output / "rows").mkdir(parents=True)
    pq.write_table(table.append_column("score", pa.array(column, from_pandas=True)), output / "rows" / "part-0.parquet")
    shutil.copy(samples.run / "manifest.json", output)
    return output


def evaluated(output, *runs, rule_vote="posterior"):
    """The facts of jobs.evaluate over ranked runs, without those that fill the page."""
    verb("jobs.evaluate", "--input", *runs, "--split", "all", "--rule-vote", rule_vote, "--output", output)
    facts = json.loads((output / "report.json").read_text())
    facts["at_budget"] = {rule: at_budgets(found["curve"]) for rule, found in facts["rules"].items()}
    for found in facts["rules"].values():
        del found["curve"]
    kept = (
        "problems", "samples", "samples_per_problem", "right_samples", "votes", "rule_vote", "rules", "at_budget",
        "confidence",
    )  # fmt: skip
    return {name: facts[name] for name in kept}


def at_budgets(curve):
    """The accuracy of a rule at some mean numbers of samples, by linear interpolation between its thresholds."""
    known = sorted((point["num_samples"]["mean"], point["accuracy"]["mean"]) for point in curve)
    samples, accuracy = zip(*known, strict=True)
    return {str(budget): float(np.interp(budget, samples, accuracy)) for budget in BUDGETS if budget <= samples[-1]}


def rankers(teachers):
    """Cross-validated rankers of the teachers' samples, and the scores of those trained on both."""
    facts, scores = {}, {}
    for name, samples in teachers.items():
        other = next(each for each in teachers if each != name)
        scores[name] = cross_validated(samples, list(teachers.values()))
        facts[name] = {
            "trained on both teachers": measured(scores[name], samples),
            "trained on this teacher": measured(cross_validated(samples, [samples]), samples),
            f"trained on {other}": measured(cross_validated(samples, [teachers[other]]), samples),
            "without": {},
            "alone": {},
            "learning_curve": {},
        }
        for group in GROUPS:
            rest = tuple(each for each in GROUPS if each != group)
            for kind, groups in (("without", rest), ("alone", (group,))):
                facts[name][kind][group] = measured(cross_validated(samples, [samples], groups), samples)
        for fraction in FRACTIONS[:-1]:
            found = measured(cross_validated(samples, [samples], fraction=fraction), samples)
            facts[name]["learning_curve"][str(fraction)] = found
        print(name, json.dumps(facts[name])[:400], flush=True)
    return facts, scores


def main():
    results = {}
    with tempfile.TemporaryDirectory() as name, multiprocessing.get_context("forkserver").Pool(2) as processes:
        folder, samples = Path(name), {}
        for corpus, (path, corpus_format) in CORPORA.items():
            run = folder / f"graded-{len(samples)}"
            verb("jobs.grade", "--input", SHARED_DATA / path, "--format", corpus_format, "--output", run)
            samples[corpus] = load(run, processes)
            print(corpus, samples[corpus].features.shape, flush=True)
        teachers = {teacher: samples.pop(teacher) for teacher in TEACHERS}
        results["rankers"], scores = rankers(teachers)
        ranked = [write_ranked(teachers[each], scores[each], folder / f"ranked-{each}") for each in TEACHERS]
        results["votes"] = {
            teacher: evaluated(folder / f"votes-{teacher}", run) for teacher, run in zip(TEACHERS, ranked, strict=True)
        }
        for vote in ("posterior", "sc"):
            found = evaluated(folder / f"votes-both-{vote}", *ranked, rule_vote=vote)
            results["votes"][f"both teachers, rules end in {vote}"] = found
            print(vote, json.dumps(found["rules"])[:600], flush=True)
        for corpus, each in samples.items():
            own = cross_validated(each, [each, *teachers.values()])
            results["rankers"][corpus] = {"trained on all three": measured(own, each)}
            run = write_ranked(each, own, folder / "ranked-gsm8k")
            results["votes"][corpus] = evaluated(folder / "votes-gsm8k", run)
    print(write_result("votes", results).read_text()[-3000:])


if __name__ == "__main__":
    main()
