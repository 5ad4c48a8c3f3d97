"""An evaluation as numbers for people and programs: means over problems with 95% bootstrap intervals, as JSON values.

Shape legend: P problems, N samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from algorithms.ranking.metrics import reliability
from algorithms.voting.curves import Curve, points, suggest
from algorithms.voting.evaluation import Evaluation, pass_at
from algorithms.voting.intervals import bootstrap_difference, bootstrap_mean
from algorithms.voting.tally import FloatArray, IntArray

FEWEST: Final = 20
"""Groups with fewer problems get no interval: a bootstrap over so few says nothing."""
BINS: Final = 10


@dataclass(frozen=True, slots=True)
class Problems:
    """What is known of the evaluated problems besides their votes, [P] each.

    `tokens`: of all samples of a problem. `perplexity`: exp of the mean negative log-probability of a token over the
    samples of a problem; NaN where unknown. `groups`: the value of each problem, such as its level, "" if it has none.
    """

    num_samples: IntArray
    num_right: IntArray
    tokens: FloatArray
    perplexity: FloatArray
    groups: Mapping[str, Sequence[str]]


def summarize(evaluation: Evaluation, problems: Problems, tolerance: float, rule_vote: str) -> dict[str, Any]:
    """All facts of an evaluation. `tolerance`: the loss of accuracy that a stopping rule may cost.

    Differences are paired by problem; their reference is `sc` if it is there, otherwise the first vote.
    """
    votes = list(evaluation.accuracy)
    reference = "sc" if "sc" in votes else votes[0]
    return {
        "problems": len(problems.num_samples),
        "samples": int(problems.num_samples.sum()),
        "samples_per_problem": float(problems.num_samples.mean()),
        "tokens_per_problem": float(problems.tokens.mean()),
        "right_samples": float(problems.num_right.sum() / problems.num_samples.sum()),
        "reference": reference,
        "votes": {vote: _vote(evaluation.accuracy, vote, reference) for vote in votes},
        "pass_at": _pass_at(problems),
        "by_samples": {vote: values.mean(axis=0).tolist() for vote, values in evaluation.by_samples.items()},
        "by": {name: _by_group(evaluation.accuracy, problems, name) for name in problems.groups},
        "replayed": len(evaluation.replayed),
        "rule_vote": rule_vote,
        "rules": {
            rule: _rule(curve, evaluation.by_samples[rule_vote][:, -1], tolerance)
            for rule, curve in evaluation.curves.items()
        },
        "confidence": _confidence(evaluation),
        "perplexity": _perplexity(evaluation.accuracy[reference], problems.perplexity),
    }


def _vote(accuracy: Mapping[str, FloatArray], vote: str, reference: str) -> dict[str, Any]:
    return {
        "accuracy": asdict(bootstrap_mean(accuracy[vote])),
        "difference": asdict(bootstrap_difference(accuracy[vote], accuracy[reference])),
    }


def _pass_at(problems: Problems) -> dict[str, Any]:
    """pass@k for k = 1, 2, 4 and so on, over the problems with at least k samples, of which there are `problems`."""
    found = {}
    k = 1
    while k <= problems.num_samples.max():
        values = pass_at(k, problems.num_samples, problems.num_right)
        values = values[~np.isnan(values)]
        found[str(k)] = {"problems": len(values), **asdict(bootstrap_mean(values))}
        k *= 2
    return found


def _by_group(accuracy: Mapping[str, FloatArray], problems: Problems, name: str) -> dict[str, Any]:
    values = np.array(problems.groups[name])
    found = {}
    for value in sorted(set(values.tolist())):
        mine = values == value
        found[value or "none"] = {
            "problems": int(mine.sum()),
            "samples_per_problem": float(problems.num_samples[mine].mean()),
            "tokens_per_problem": float(problems.tokens[mine].mean()),
            "votes": {vote: _group_mean(each[mine]) for vote, each in accuracy.items()},
        }
    return found


def _group_mean(values: FloatArray) -> dict[str, float | None]:
    if len(values) >= FEWEST:
        return {**asdict(bootstrap_mean(values))}
    return {"mean": float(values.mean()), "low": None, "high": None}


def _rule(curve: Curve, whole: FloatArray, tolerance: float) -> dict[str, Any]:
    """The curve of a rule, and its cheapest threshold that loses at most `tolerance` against the whole pools [P]."""
    facts: dict[str, Any] = {"curve": [asdict(point) for point in points(curve)], "suggestion": None}
    try:
        suggestion = suggest(curve, -tolerance, reference=whole)
    except ValueError:  # no threshold reaches it
        return facts
    index = curve.thresholds.index(suggestion.point.threshold)
    lost = bootstrap_difference(curve.accuracy[:, index], whole)
    facts["suggestion"] = {**asdict(suggestion), "difference": asdict(lost)}
    return facts


def _confidence(evaluation: Evaluation) -> dict[str, Any] | None:
    """How honest the posterior is about its answers: mean probability and accuracy in bins of problems."""
    if evaluation.confidence is None or "posterior" not in evaluation.accuracy:
        return None
    bins = reliability(evaluation.confidence, evaluation.accuracy["posterior"], BINS)
    return {
        "claimed": bins.scores.tolist(),
        "accuracy": bins.right.tolist(),
        "problems": bins.counts.tolist(),
        "expected_error": bins.expected_error,
    }


def _perplexity(accuracy: FloatArray, perplexity: FloatArray) -> dict[str, Any] | None:
    """Accuracy in bins of problems by the perplexity of their samples, and their rank correlation."""
    known = ~np.isnan(perplexity)
    if known.sum() < 2 * BINS:
        return None
    from scipy.stats import spearmanr

    values, right = perplexity[known], accuracy[known]
    parts = [part for part in np.array_split(np.argsort(values, kind="stable"), BINS) if len(part)]
    return {
        "mean": float(np.exp(np.log(values).mean())),
        "bins": [
            {"perplexity": float(np.exp(np.log(values[part]).mean())), "accuracy": float(right[part].mean())}
            for part in parts
        ],
        "rank_correlation": float(spearmanr(values, right).statistic) if len(set(right.tolist())) > 1 else None,
    }
