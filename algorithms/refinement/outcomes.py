"""What a refinement returns."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Stopped: TypeAlias = Literal["one_step", "all_critical", "nothing_removable", "no_merge", "ratio_reached", "rated_once"]


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to a chain. `index` refers to the chain before the edit.

    `ppl_before` and `ppl_after` are the perplexities of the scored text before and after the edit. In the suffix scope
    this is the text that follows the edited steps, the same text both times; in the other scopes it is what the scope
    selects from the whole chain. ratio = ppl_after / reference, and the reference is `ppl_before`, or the perplexity of
    the original chain if the policy says so. All three are None if the criterion does not compare perplexities.
    """

    action: Literal["remove", "merge"]
    index: int
    before: str
    after: str
    ppl_before: float | None
    ppl_after: float | None
    ratio: float | None


@dataclass(frozen=True, slots=True)
class MergeAttempt:
    """A merge that was asked for: of step `index` of the chain at that time and the next one, and what became of it.

    `outcome` is `accepted`, the rule of `merging` that refused `text`, or why there was no text.
    """

    index: int
    outcome: str
    text: str


@dataclass(frozen=True, slots=True)
class Refinement:
    """The result. `stopped` is the reason why no further step went.

    one_step: one step is left. all_critical: removing any step raises perplexity above t2. nothing_removable: all steps
    left are kept for other reasons. no_merge: a step was due for merging, and the policy says stop. ratio_reached: the
    wanted share of steps is gone. rated_once: the criterion rates each step once, and the rest is above its threshold.

    `ppl_original` and `ppl_refined` are those of the whole chain: of everything after the question in the suffix scope,
    and in the other scopes of what the scope selects. `separators` are as in a Chain.
    """

    steps: tuple[str, ...]
    separators: tuple[str, ...]
    edits: tuple[Edit, ...]
    ppl_original: float
    ppl_refined: float
    stopped: Stopped
    merges: tuple[MergeAttempt, ...] = ()


def ratio_of(ppl: float, reference: float) -> float:
    """ppl / reference; infinite for an infinite perplexity."""
    return math.inf if math.isinf(ppl) or reference == 0 else ppl / reference
