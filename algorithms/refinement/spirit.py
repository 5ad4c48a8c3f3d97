"""SPIRIT-FT (arXiv 2502.13260): in each round the step goes whose removal raises perplexity least.

Each round requests the perplexity of the chain and of the chain without each step. It selects the step whose removal
raises perplexity least, and compares the new perplexity with the reference. Above `t2` times the reference, this step
and all others are critical, and refinement stops. Below `t1` times the reference, the step is removed. In between, the
step is due to be merged into a neighbour.

Departures from a published digest of the paper (`RECIPES["digest"]` reproduces its code), all our choice: the question
is not scored; the step that states the answer stays, and so does one that first states what a later step uses, which
may only be merged; a step that is due for merging is not simply removed; no removal leaves half of a formula, an
environment or a code block behind.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace

from algorithms.chains import Chain
from algorithms.refinement.dependence import is_used_later
from algorithms.refinement.draft import Draft, Step, Steps, without
from algorithms.refinement.merging import Merging
from algorithms.refinement.outcomes import Edit, Refinement, Stopped, ratio_of
from algorithms.refinement.policy import Policy
from algorithms.refinement.requests import Refining, Reply, Request, request_scores


def refine_greedily(chain: Chain, policy: Policy) -> Refining:
    """Refine one chain. With `remove_ratio`, go on until that share of the steps is gone, whatever the perplexity."""
    draft = Draft(chain, policy)
    merging = Merging(draft)
    steps = draft.steps()
    wanted = policy.num_wanted(len(steps))
    edits: list[Edit] = []
    ppl_original: float | None = None
    ppl_known: float | None = None  # the perplexity of the current chain, if an earlier round scored it

    while True:
        candidates = [] if len(edits) == wanted else removable(draft, steps)
        if not candidates and ppl_known is not None:
            current = ppl_known
        else:
            ppls = yield from request_scores(draft.removal_request(steps, candidates))
            current = ppls[0]
        if ppl_original is None:
            ppl_original = current
        if not candidates:
            stopped: Stopped = "ratio_reached" if len(edits) == wanted else "nothing_removable"
            stopped = "one_step" if len(steps) == 1 else stopped
            break
        chosen = yield from _choose(draft, merging, steps, candidates, ppls, ppl_original)
        if not isinstance(chosen, Edit):
            stopped = chosen
            break
        edits.append(chosen)
        steps = merging.applied(steps, chosen) if chosen.action == "merge" else without(steps, chosen.index)
        # The suffix scope scores only part of the text, so its perplexity is not that of the whole chain.
        ppl_known = None if policy.scope == "suffix" else chosen.ppl_after

    left = tuple(step.text for step in steps)
    merges = tuple(merging.attempts)
    return Refinement(left, draft.separators(steps), tuple(edits), ppl_original, current, stopped, merges)


def removable(draft: Draft, steps: Steps) -> list[int]:
    """The indices of the steps that may go, or may at least be merged."""
    candidates = draft.candidates(steps)
    if not draft.policy.keep_used or draft.policy.ask_merger:
        return candidates
    return [index for index in candidates if not _is_used(draft, steps, index)]


def _choose(
    draft: Draft,
    merging: Merging,
    steps: list[Step],
    candidates: Sequence[int],
    ppls: Sequence[float],
    ppl_original: float,
) -> Generator[Request, Reply, Edit | Stopped]:
    """The next edit, or the reason to stop. Marks the steps that are found critical on the way."""
    policy = draft.policy
    removed, references = draft.compare(ppls, len(candidates), ppl_original)
    ratios = [ratio_of(ppl, reference) for ppl, reference in zip(removed, references, strict=True)]
    # A tie goes to the lowest index. The perplexities order those that division rounds to one ratio.
    for place in sorted(range(len(candidates)), key=lambda i: (ratios[i], removed[i])):
        index, ppl, reference = candidates[place], removed[place], references[place]
        before = reference if policy.scope == "suffix" else ppls[0]
        removal = Edit("remove", index, steps[index].text, "", before, ppl, ratios[place])
        if policy.remove_ratio is not None:
            return removal
        if not ppl <= policy.t2 * reference:
            return "all_critical"
        # Without a merger, no step that is used is a candidate.
        may_go = not (policy.keep_used and policy.ask_merger and _is_used(draft, steps, index))
        if may_go and ppl < policy.t1 * reference:
            return removal
        if policy.ask_merger:
            merge = yield from merging.attempt(steps, index, ppl_original)
            if merge is not None:
                return merge
        if may_go and policy.unmerged == "drop":
            return removal
        if may_go and policy.unmerged == "stop":
            return "no_merge"
        steps[index] = replace(steps[index], is_fixed=True)
    return "nothing_removable"


def _is_used(draft: Draft, steps: Steps, index: int) -> bool:
    return is_used_later(draft.chain.question, [step.text for step in steps], index)
