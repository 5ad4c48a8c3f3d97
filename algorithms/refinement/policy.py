"""The options of the refinement."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from algorithms.perplexity import Scope

Criterion: TypeAlias = Literal["spirit", "pir", "surprisal", "random"]
Reference: TypeAlias = Literal["current", "original"]
Unmerged: TypeAlias = Literal["drop", "stop", "keep"]


@dataclass(frozen=True, slots=True)
class Policy:
    """The options of the refinement. Raises ValueError if they contradict each other.

    `criterion`: what decides which step goes (see `refine.CRITERIA`). `t1`, `t2`: ratios to the reference perplexity;
    remove below t1, stop above t2. `remove_ratio`: remove this share of the steps, those that the criterion likes least
    first, instead of comparing with t1 and t2. `scope`: the scored tokens (see `algorithms.perplexity`). `reference`:
    the perplexity of the current or of the original chain. `protect_answer`: never remove the step that states the
    answer. `keep_used`: never remove a step that first states what a later step uses (see `dependence`). `unmerged`:
    the action for a step that is due for merging if no merge was requested or accepted: `drop` it, `stop` refining, or
    `keep` it as critical and try the next step. `ask_merger`: yield MergeRequests. `separator`: joins the parts of the
    scored text; None uses the chain's own. `append_answer`: if no step states the answer, append it to the chain and
    score it. `seed`: of the random criterion.
    """

    criterion: Criterion = "spirit"
    t1: float = 0.97
    t2: float = 1.2
    remove_ratio: float | None = None
    scope: Scope = "completion"
    reference: Reference = "current"
    protect_answer: bool = True
    keep_used: bool = True
    unmerged: Unmerged = "stop"
    ask_merger: bool = False
    separator: str | None = None
    append_answer: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.t1 <= self.t2 < math.inf:
            raise ValueError(f"t1 and t2 must satisfy 0 < t1 <= t2, got t1={self.t1:g} and t2={self.t2:g}")
        if self.remove_ratio is not None and not 0 < self.remove_ratio < 1:
            raise ValueError(f"remove_ratio must lie between 0 and 1, got {self.remove_ratio:g}")
        if self.remove_ratio is None and self.criterion in ("surprisal", "random"):
            raise ValueError(f"criterion {self.criterion!r} has no threshold: set remove_ratio")
        if self.scope == "answer" and not self.protect_answer:
            raise ValueError("scope 'answer' scores the step that states the answer, so it needs protect_answer")
        if self.criterion == "pir" and self.scope != "answer":
            raise ValueError(f"criterion 'pir' compares the perplexity of the answer, so scope must be answer, "
                             f"got {self.scope!r}")  # fmt: skip
        if self.scope == "suffix" and self.reference == "original":
            raise ValueError(
                "scope 'suffix' compares each removal with its own chain, so reference must be current; "
                "scope 'completion' takes either"
            )
        if self.ask_merger and (self.criterion != "spirit" or self.remove_ratio is not None):
            raise ValueError("only criterion 'spirit' with thresholds merges: leave out remove_ratio")

    def num_wanted(self, num_steps: int) -> int | None:
        """The number of steps to remove from a chain, None if thresholds decide."""
        return None if self.remove_ratio is None else math.floor(self.remove_ratio * num_steps + 0.5)


RECIPES: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        "sluice": Policy(),
        "digest": Policy(
            t1=0.95,
            scope="full",
            protect_answer=False,
            keep_used=False,
            unmerged="drop",
            separator=" ",
            append_answer=False,
        ),
    }
)
