"""Criteria that rate every step once, and remove those with the lowest ratings.

pir         Perplexity-based Importance Refinement (LIMOPro, arXiv 2505.19187): log(PPL(without the step) / PPL) over
            the tokens of the answer. n + 1 scorings, in place of one for each step and round.
surprisal   ASAP (arXiv 2508.05988): -log p of the step's first token, as its place in the chain conditions it. One
            forward of the whole chain.
random      the control that every other criterion has to beat. No model.
"""

import math
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

from algorithms.chains import Chain
from algorithms.refinement.draft import Draft, Steps, without
from algorithms.refinement.outcomes import Edit, Refinement, Stopped, ratio_of
from algorithms.refinement.policy import Policy
from algorithms.refinement.requests import Refining, Reply, Request, ScoreRequest, request_scores
from algorithms.refinement.spirit import removable


def refine_in_one_pass(chain: Chain, policy: Policy) -> Refining:
    """Refine one chain by the ratings of RATERS[policy.criterion]."""
    draft = Draft(chain, policy)
    steps = draft.steps()
    candidates = removable(draft, steps)
    ratings = yield from RATERS[policy.criterion](draft, steps, candidates)
    wanted = policy.num_wanted(len(steps))
    limit = math.inf if wanted is not None else policy.t1

    edits: list[Edit] = []
    place = list(range(len(steps)))  # of each step of the original chain in what is left
    stopped: Stopped = "rated_once" if wanted is None else "nothing_removable"
    for rating, index in sorted(zip(ratings, candidates, strict=True)):
        if len(edits) == wanted:
            break
        now = place[index]
        # What has gone may have made this step the only one, or the first that states something.
        if not rating < limit or now not in removable(draft, steps):
            continue
        ratio = rating if policy.criterion == "pir" else None
        edits.append(Edit("remove", now, steps[now].text, "", None, None, ratio))
        steps = without(steps, now)
        place = [each - (each > now) for each in place]
    if len(edits) == wanted:
        stopped = "ratio_reached"
    if len(steps) == 1:
        stopped = "one_step"
    original, refined = yield from request_scores(ScoreRequest((draft.variant(draft.steps()), draft.variant(steps))))
    left = tuple(step.text for step in steps)
    return Refinement(left, draft.separators(steps), tuple(edits), original, refined, stopped)


Ratings: TypeAlias = Generator[Request, Reply, Sequence[float]]


def _rate_by_answer(draft: Draft, steps: Steps, candidates: Sequence[int]) -> Ratings:
    """PPL(answer without the step) / PPL(answer). Its logarithm is the rating of the paper."""
    ppls = yield from request_scores(draft.removal_request(steps, candidates))
    removed, references = draft.compare(ppls, len(candidates), ppls[0])
    return [ratio_of(ppl, reference) for ppl, reference in zip(removed, references, strict=True)]


def _rate_by_surprisal(draft: Draft, steps: Steps, candidates: Sequence[int]) -> Ratings:
    """The perplexity of the step's first token."""
    ppls = yield from request_scores(draft.surprisal_request(steps, candidates))
    return ppls[1:]


def _rate_at_random(draft: Draft, steps: Steps, candidates: Sequence[int]) -> Ratings:
    """Random numbers that depend on the chain and the seed alone."""
    yield from ()
    chance = random.Random(f"{draft.policy.seed}:{draft.chain.question}:{draft.chain.text}")
    return [chance.random() for _ in candidates]


RATERS: Final[Mapping[str, Callable[[Draft, Steps, Sequence[int]], Ratings]]] = MappingProxyType(
    {"pir": _rate_by_answer, "surprisal": _rate_by_surprisal, "random": _rate_at_random}
)
