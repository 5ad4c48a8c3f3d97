"""Refine one chain by the criterion that the policy names, and the random control beside it."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from algorithms.chains import Chain
from algorithms.refinement.one_pass import refine_in_one_pass
from algorithms.refinement.outcomes import Refinement
from algorithms.refinement.policy import Criterion, Policy
from algorithms.refinement.requests import Refining, Reply, Request
from algorithms.refinement.spirit import refine_greedily


@dataclass(frozen=True, slots=True)
class CriterionKind:
    """One criterion, as a person reads of it, and its generator."""

    description: str
    refine: Callable[[Chain, Policy], Refining]


CRITERIA: Final[Mapping[Criterion, CriterionKind]] = MappingProxyType(
    {
        "spirit": CriterionKind(
            "again and again, the step whose removal raises the perplexity of --scope least", refine_greedily
        ),
        "pir": CriterionKind(
            "once, the steps whose removal raises the perplexity of the answer least, below t1", refine_in_one_pass
        ),
        "surprisal": CriterionKind(
            "once, the steps whose first token surprises the model least; needs --remove-ratio", refine_in_one_pass
        ),
        "random": CriterionKind("once, at random, the control; needs --remove-ratio", refine_in_one_pass),
    }
)


def refine(chain: Chain, policy: Policy) -> Refining:
    """Refine one chain. Send the reply to each request to get the next request. Returns the Refinement.

    Raises ValueError if the chain has no steps.
    """
    return CRITERIA[policy.criterion].refine(chain, policy)


def refine_with_control(chain: Chain, policy: Policy) -> Generator[Request, Reply, tuple[Refinement, Refinement]]:
    """Refine one chain, then remove as many of its steps at random: the control, scored on the same tokens.

    The step that states the answer stays in both if the policy protects it; nothing else guides the control.
    """
    refinement = yield from refine(chain, policy)
    num_removed = len(chain.steps) - len(refinement.steps)
    if num_removed == 0:
        return refinement, refinement
    at_random = replace(
        policy,
        criterion="random",
        remove_ratio=num_removed / len(chain.steps),
        keep_used=False,
        ask_merger=False,
    )
    control = yield from refine(chain, at_random)
    return refinement, control
