"""What an evaluation can show of recorded samples, and its results in the run's folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import UserError
from actors.runs.folder import RunFolder
from algorithms.voting.evaluation import Evaluation, Plan
from algorithms.voting.policy import Policy
from algorithms.voting.pools import Pools
from algorithms.voting.stopping import RULES
from algorithms.voting.summaries import summarize
from algorithms.voting.sweeps import sweeps_for
from algorithms.voting.votes import METHODS
from jobs.driver.recorded_samples import RecordedSamples

FEWEST_PROBLEMS: Final = 50
NEEDS_SCORES: Final = ("asc", "asc+1", "asc+2", "cges", "beta-weighted")
NEEDS_LOGPROBS: Final = ("ws",)
LEARNED: Final = ("posterior", "gain")
BOUNDS: Final = frozenset({"first", "oracle"})


@dataclass(frozen=True)
class Wanted:
    """What the user asks for. Empty `votes` and `rules` stand for all that the samples allow."""

    votes: tuple[str, ...]
    rules: tuple[str, ...]
    rule_vote: str | None
    minimum: int
    wave: int
    num_folds: int
    num_orders: int
    seed: int


def plan_for(wanted: Wanted, pools: Pools) -> Plan:
    """The plan that these samples allow. Raises UserError for a vote or rule by name that they do not."""
    lacks = _lacking(pools)
    budget = pools.classes.shape[1]
    if wanted.minimum > budget:
        raise UserError(f"--minimum {wanted.minimum}: no problem has more than {budget} samples")
    flags: tuple[tuple[str, Sequence[str]], ...] = (
        ("--votes", wanted.votes),
        ("--rules", wanted.rules),
        ("--rule-vote", (wanted.rule_vote,) if wanted.rule_vote else ()),
    )
    for flag, names in flags:
        for name in names:
            if name in lacks:
                raise UserError(f"{flag} {name} needs {lacks[name]}")
    votes = wanted.votes or tuple(name for name in METHODS if name not in lacks)
    rule_vote = wanted.rule_vote or ("posterior" if "posterior" in votes and pools.has_scores else "sc")
    rules = wanted.rules or tuple(name for name in RULES if name not in lacks)
    if rule_vote not in votes:
        votes = (*votes, rule_vote)
    return Plan(
        votes,
        rules if budget > 1 else (),
        rule_vote,
        wanted.minimum,
        wanted.wave,
        wanted.num_folds,
        wanted.num_orders,
        wanted.seed,
    )


def left_out(plan: Plan, pools: Pools) -> list[str]:
    """What the samples do not allow, as lines for a person."""
    shown = {*plan.votes, *plan.rules}
    reasons: dict[str, list[str]] = {}
    for name, reason in _lacking(pools).items():
        if name not in shown:
            reasons.setdefault(reason, []).append(name)
    return [f"left out: {', '.join(names)} (needs {reason})" for reason, names in reasons.items()]


def _lacking(pools: Pools) -> dict[str, str]:
    """Votes and rules that cannot be shown, with what they need."""
    found: dict[str, str] = {}
    if not pools.has_scores:
        found |= dict.fromkeys(NEEDS_SCORES, "the scores of a ranker: give a run of jobs.rank, or --ranker")
    if (np.isnan(pools.logprobs) & (pools.classes >= 0)).any():
        found |= dict.fromkeys(NEEDS_LOGPROBS, "log-probabilities, which samples of jobs.sample have")
    if (pools.classes < 0).all():
        found |= dict.fromkeys(LEARNED, "samples that state an answer, and none does")
    elif len(pools.classes) < FEWEST_PROBLEMS:
        reason = f"{FEWEST_PROBLEMS} problems to learn from, and there are {len(pools.classes)}"
        found |= dict.fromkeys(LEARNED, reason)
    elif (whole := int((pools.sizes == pools.classes.shape[1]).sum())) < FEWEST_PROBLEMS:
        found["gain"] = f"{FEWEST_PROBLEMS} problems with {pools.classes.shape[1]} samples, and there are {whole}"
    return found


def save(output: RunFolder, samples: RecordedSamples, evaluation: Evaluation, plan: Plan, tolerance: float) -> None:
    """Write the numbers, the problems and the fitted policies into the run's folder."""
    facts = summarize(evaluation, samples.problems, tolerance, plan.rule_vote)
    facts |= {"unit": samples.unit, "unused": dict(samples.unused.most_common())}
    pq.write_table(_table(samples, evaluation), sink := pa.BufferOutputStream(), compression="zstd")
    output.problems.write_bytes(sink.getvalue().to_pybytes())
    output.policies.write_bytes(json.dumps(_policies(facts, plan, samples.pools, evaluation), indent=2).encode())
    output.evaluation.write_bytes(json.dumps(facts, indent=2).encode())


def _table(samples: RecordedSamples, evaluation: Evaluation) -> pa.Table:
    known = samples.problems
    return pa.table(
        {
            "problem": samples.hashes,
            "num_samples": known.num_samples,
            "num_right": known.num_right,
            samples.unit: known.tokens,
            "perplexity": pa.array(known.perplexity, from_pandas=True),  # NaN becomes null
            **{name: list(values) for name, values in known.groups.items()},
            **{f"accuracy_{vote}": values for vote, values in evaluation.accuracy.items()},
        }
    )


def _policies(facts: dict[str, Any], plan: Plan, pools: Pools, evaluation: Evaluation) -> dict[str, Any]:
    """For each rule with a suggestion, its policy at that threshold."""
    if plan.rule_vote in BOUNDS:
        return {}
    models = evaluation.models
    sweeps = sweeps_for(plan.rules, pools.classes.shape[1], plan.minimum, plan.wave, models.gain, models.posterior)
    found: dict[str, Any] = {}
    for name, sweep in sweeps.items():
        suggestion = facts["rules"][name]["suggestion"]
        if suggestion is not None:
            rule = replace(sweep.rule, threshold=suggestion["point"]["threshold"])
            found[name] = Policy(plan.rule_vote, rule, models.posterior).to_json()
    return found
