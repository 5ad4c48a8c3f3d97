"""Rankers, votes and stopping rules on real samples: both teachers' on MATH, and GSM8K's model solutions.

    python -m tests.benchmarks.votes

Grades the shared corpora as a user does. Rankers are cross-validated over all problems, by problem: five folds, and in
the other folds 15% of the problems for early stopping and calibration. Their scores become ranked runs: no score of a
problem comes from a ranker that saw it. `jobs.evaluate` with --split all takes the votes, by the scores of the ranker
of the same teacher and by those of the ranker of both. Stopping rules are replayed on both teachers' samples. Each
rule's threshold is chosen on four folds and judged on the fifth, by `algorithms.voting`.

Also: each group of features left out and alone, a learning curve, and rankers trained on one teacher and tested on the
other. Takes about 30 minutes on two cores. With --folder FOLDER the runs are kept there, and the command, repeated,
grades nothing again.
"""

import argparse
import contextlib
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
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
from algorithms.voting.curves import Curve, suggest
from algorithms.voting.evaluation import Plan, evaluate, fold_of
from algorithms.voting.intervals import bootstrap_difference, bootstrap_mean, resampled_means
from algorithms.voting.stopping import RULES
from jobs.driver import cluster, inputs, recorded_samples
from tests.benchmarks.grade_corpora import CORPORA
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.runs import ROOT

FOLDS = 5
INNER = 0.15  # of the training problems, for early stopping and calibration
FRACTIONS = (0.1, 0.25, 0.5, 1.0)  # of the learning curve
PLAN = BoostingPlan(tuple(GROUPS), 2000, 50, 0.03, 31, 100, 0, 2)  # the defaults of jobs.train
COLUMNS = ("question", "rationale", "answer", "correct", "status")
TEACHERS = ("gpt-3.5-turbo", "gpt-4")
OWN, JOINT = "own ranker", "joint ranker"  # trained on the samples of the same corpus, and of others too
BUDGETS = (2, 3, 4, 5, 6, 6.8, 8, 10, 12)  # samples at which curves are compared
TOLERANCES = (0.0, 0.0025)  # accuracy that a rule may lose against sc over all samples
CHOOSING = 100  # resamples while a threshold is chosen: their spread is not reported


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
    shutil.rmtree(output, ignore_errors=True)
    table = pq.read_table(samples.run / "rows")
    column = np.full(table.num_rows, np.nan)
    column[samples.places] = scores
    (output / "rows").mkdir(parents=True)
    pq.write_table(table.append_column("score", pa.array(column, from_pandas=True)), output / "rows" / "part-0.parquet")
    shutil.copy(samples.run / "manifest.json", output)
    return output


def votes(output, *runs):
    """The votes of jobs.evaluate over ranked runs."""
    shutil.rmtree(output, ignore_errors=True)
    replays = ("--rules", "fixed", "--num-orders", 2)  # not looked at
    verb("jobs.evaluate", "--input", *runs, "--split", "all", *replays, "--output", output)
    facts = json.loads((output / "report.json").read_text())
    kept = ("problems", "samples", "samples_per_problem", "right_samples", "votes", "confidence")
    return {name: facts[name] for name in kept}


def stopping(runs):
    """What the stopping rules use and reach over ranked runs, with the votes `sc` and `posterior`."""
    with cluster.connect(2):
        corpora = [inputs.open_corpus(str(run), "graded", {}, None, None, None) for run in runs]
        pools = recorded_samples.read(corpora, None, ()).pools
    facts = {"budget": pools.classes.shape[1], "problems": len(pools.classes)}
    for vote in ("sc", "posterior"):
        found = evaluate(pools, Plan(("sc", "posterior"), tuple(RULES), vote))
        reference = found.by_samples["sc"][:, -1]
        facts[f"rules end in {vote}"] = {
            rule: {
                "difference_at_samples": at_budgets(curve, reference),
                "chosen_on_other_folds": {str(each): chosen_elsewhere(curve, reference, each) for each in TOLERANCES},
            }
            for rule, curve in found.curves.items()
        }
        print(vote, json.dumps(facts[f"rules end in {vote}"]), flush=True)
    return facts


def at_budgets(curve, reference):
    """The difference to the reference at some mean numbers of samples, by linear interpolation between thresholds."""
    order = np.argsort(curve.num_samples.mean(axis=0), kind="stable")
    samples, accuracy = curve.num_samples[:, order], curve.accuracy[:, order]
    known = samples.mean(axis=0)
    facts = {}
    for budget in (each for each in BUDGETS if known[0] <= each <= known[-1]):
        after = int(np.searchsorted(known, budget))
        share = (budget - known[after - 1]) / (known[after] - known[after - 1]) if after else 1.0
        reached = share * accuracy[:, after] + (1 - share) * accuracy[:, max(after - 1, 0)]
        facts[str(budget)] = asdict(bootstrap_difference(reached, reference))
    return facts


def chosen_elsewhere(curve, reference, tolerance):
    """What a rule uses and reaches if each fold has the cheapest threshold that the other folds allow.

    None if no threshold loses as little as `tolerance` in some of the folds.
    """
    folds = fold_of(len(reference), FOLDS, seed=0)
    samples, accuracy, thresholds = np.zeros(len(reference)), np.zeros(len(reference)), []
    for number in range(FOLDS):
        rest, mine = folds != number, folds == number
        seen = Curve(curve.thresholds, curve.num_samples[rest], curve.num_tokens[rest], curve.accuracy[rest])
        try:
            chosen = suggest(seen, -tolerance, reference=reference[rest], resamples=CHOOSING).point.threshold
        except ValueError:
            return None
        index = curve.thresholds.index(chosen)
        samples[mine], accuracy[mine] = curve.num_samples[mine, index], curve.accuracy[mine, index]
        thresholds.append(chosen)
    return {
        "thresholds": thresholds,
        "num_samples": asdict(bootstrap_mean(samples)),
        "accuracy": asdict(bootstrap_mean(accuracy)),
        "difference": asdict(bootstrap_difference(accuracy, reference)),
    }


def rankers(teachers):
    """Cross-validated rankers of the teachers' samples, and the scores of their own rankers and of the joint ones."""
    facts, own, joint = {}, {}, {}
    for name, samples in teachers.items():
        other = next(each for each in teachers if each != name)
        own[name] = cross_validated(samples, [samples])
        joint[name] = cross_validated(samples, list(teachers.values()))
        facts[name] = {
            "trained on this teacher": measured(own[name], samples),
            "trained on both teachers": measured(joint[name], samples),
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
    return facts, {OWN: own, JOINT: joint}


def graded(folder, processes):
    """The samples of every corpus, graded."""
    samples = {}
    for number, (corpus, (path, corpus_format)) in enumerate(CORPORA.items()):
        run = folder / f"graded-{number}"
        verb("jobs.grade", "--input", SHARED_DATA / path, "--format", corpus_format, "--output", run)
        samples[corpus] = load(run, processes)
        print(corpus, samples[corpus].features.shape, flush=True)
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with multiprocessing.get_context("forkserver").Pool(2) as processes:
            samples = graded(folder.absolute(), processes)
        results = measure(samples, folder.absolute())
    print(write_result("votes", results).read_text()[-3000:])


def measure(samples, folder):
    """Rankers of all corpora, the votes by their scores, and stopping rules."""
    teachers = {teacher: samples.pop(teacher) for teacher in TEACHERS}
    facts, scores = rankers(teachers)
    results = {"rankers": facts, "votes": {OWN: {}, JOINT: {}}}
    ranked = {}
    for kind, of_kind in scores.items():
        found = results["votes"][kind]
        ranked[kind] = [
            write_ranked(teachers[each], of_kind[each], folder / f"ranked-{len(ranked)}-{each}") for each in TEACHERS
        ]
        for teacher, run in zip(TEACHERS, ranked[kind], strict=True):
            found[teacher] = votes(folder / "votes", run)
        found["both teachers"] = votes(folder / "votes", *ranked[kind])
        print(kind, json.dumps(found), flush=True)
    for corpus, each in samples.items():
        own = cross_validated(each, [each])
        joint = cross_validated(each, [each, *teachers.values()])
        facts[corpus] = {"trained on these": measured(own, each), "trained on all three": measured(joint, each)}
        for kind, of_kind in ((OWN, own), (JOINT, joint)):
            run = write_ranked(each, of_kind, folder / "ranked-gsm8k")
            results["votes"][kind][corpus] = votes(folder / "votes", run)
    results["stopping"] = stopping(ranked[OWN])
    return results


if __name__ == "__main__":
    main()
