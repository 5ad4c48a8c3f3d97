"""Which vote and stopping rule a request gets: those of an evaluation, or votes weighted by the ranker, or counts."""

import json
from dataclasses import dataclass, replace
from typing import Final

from actors.errors import UserError
from actors.runs.folder import open_run_folder
from algorithms.voting.online import fitted
from algorithms.voting.policy import Policy
from algorithms.voting.stopping import Beta, BetaWeighted, Gain

WEIGHTED: Final = "asc"
COUNTED: Final = "sc"


@dataclass(frozen=True)
class Policies:
    """The policy of a request that says nothing, and those for a wanted confidence.

    `scored` is for samples with scores, `counted` for samples without.
    """

    scored: Policy
    counted: Policy

    @classmethod
    def default(cls, confidence: float) -> "Policies":
        """Adaptive self-consistency with the rule `beta`, on scores or on counts."""
        return cls(Policy(WEIGHTED, BetaWeighted(confidence)), Policy(COUNTED, Beta(confidence)))

    def chosen(self, max_samples: int, min_samples: int | None, confidence: float | None) -> "Policies":
        """The policies of one request. Raises ValueError if a rule cannot do what is asked."""
        scored, counted = self.scored, self.counted
        if confidence is not None:
            scored = replace(scored, rule=BetaWeighted(confidence))
            counted = replace(counted, rule=Beta(confidence))
        if min_samples is not None:
            if min_samples > max_samples:
                raise ValueError(f"min_samples={min_samples} is more than max_samples={max_samples}")
            scored, counted = (
                replace(each, rule=replace(each.rule, minimum=min_samples, maximum=max(each.rule.maximum, min_samples)))
                for each in (scored, counted)
            )
        return Policies(fitted(scored, max_samples), fitted(counted, max_samples))


def load_policies(uri: str, rule: str, confidence: float, has_ranker: bool) -> Policies:
    """The policies of a run of jobs.evaluate. Raises UserError if it has none of that rule, or none that fits."""
    file = open_run_folder(uri).policies
    if not file.exists():
        raise UserError(f"policy={uri} holds no policies: name the output of jobs.evaluate")
    try:
        found = {name: Policy.from_json(each) for name, each in json.loads(file.read_bytes()).items()}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"policy={uri}: {error}") from None
    if rule not in found:
        known = f"choose among {', '.join(found)}" if found else "no rule could be suggested: evaluate more samples"
        raise UserError(f"policy={uri} has no rule {rule}: {known}")
    policy, default = found[rule], Policies.default(confidence)
    if "score" in policy.needs:
        if not has_ranker:
            raise UserError(f"policy={uri} reads a ranker's scores: give ranker= too")
        return Policies(policy, default.counted)
    return Policies(policy, policy)


def budget_of(policies: Policies) -> int | None:
    """The most samples that a learned rule allows, None if any number does."""
    rules = (policies.scored.rule, policies.counted.rule)
    return min((rule.maximum for rule in rules if isinstance(rule, Gain)), default=None)
