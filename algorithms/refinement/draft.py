"""A chain under work: its steps, the texts of its variants, and the tokens that the scope scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from algorithms.chains import Chain, answer_step, wider_gap
from algorithms.markup import is_balanced
from algorithms.refinement.policy import Policy
from algorithms.refinement.requests import ScoreRequest, Variant


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a draft."""

    text: str
    gap: str  # the text between the step before and this one
    is_fixed: bool  # it states the answer and is protected, or it was found critical
    is_balanced: bool


Steps: TypeAlias = Sequence[Step]


def without(steps: Steps, index: int) -> list[Step]:
    """The steps without one. Of the gaps around it, the one with more new lines stays."""
    before, after = list(steps[:index]), list(steps[index + 1 :])
    if before and after:
        gaps = steps[index].gap, after[0].gap
        if gaps[0] != gaps[1]:
            after[0] = replace(after[0], gap=wider_gap(*gaps))
    return before + after


class Draft:
    """Builds the texts of a chain and of its variants, with their scored spans. Raises ValueError without steps."""

    def __init__(self, chain: Chain, policy: Policy) -> None:
        if not chain.steps:
            raise ValueError("refine needs a chain of at least one step, got none")
        self.chain = chain
        self.policy = policy
        self._stated = answer_step(chain)
        self._keeps_balance = is_balanced(chain.text)

    def steps(self) -> list[Step]:
        """The chain's steps, as they are before any edit."""
        chain = self.chain
        gaps = ("", *(chain.separators or (chain.joiner,) * (len(chain.steps) - 1)))
        protected = self._stated if self.policy.protect_answer else None
        return [
            Step(text, gap, index == protected, is_balanced(text))
            for index, (text, gap) in enumerate(zip(chain.steps, gaps, strict=True))
        ]

    def separators(self, steps: Steps) -> tuple[str, ...]:
        """The separators of a Chain of these steps."""
        return tuple(step.gap for step in steps[1:]) if self.chain.separators else ()

    def candidates(self, steps: Steps) -> list[int]:
        """The indices of the steps whose removal can be scored and leaves nothing half; none if only one is left."""
        if len(steps) == 1:
            return []
        found = [index for index, step in enumerate(steps) if not step.is_fixed and self.can_score_after(steps, index)]
        if self._keeps_balance:
            found = [
                index
                for index in found
                if steps[index].is_balanced or is_balanced(self._tail(without(steps, index), 0))
            ]
        return found

    def can_score_after(self, steps: Steps, index: int) -> bool:
        """Whether the scope scores any text if step `index` is edited; the suffix scope needs text after it."""
        return self.policy.scope != "suffix" or self._tail(steps, index + 1).strip() != ""

    def removal_request(self, steps: Steps, candidates: Sequence[int]) -> ScoreRequest:
        """The current chain, then the chain without each candidate.

        With the suffix scope, each candidate gives two variants, without and with it, scored on the text after it.
        """
        variants = [self.variant(steps)]
        for index in candidates:
            rest = without(steps, index)
            if self.policy.scope == "suffix":
                length = len(self._tail(steps, index + 1))
                texts = self._text(rest), variants[0].text
                variants += [Variant(text, (len(text) - length, len(text))) for text in texts]
            else:
                variants.append(self.variant(rest))
        return ScoreRequest(tuple(variants))

    def compare(self, ppls: Sequence[float], num_candidates: int, original: float) -> tuple[list[float], list[float]]:
        """From the reply to a `removal_request`: for each candidate, the perplexity without it and its reference."""
        if self.policy.scope == "suffix":
            return list(ppls[1::2]), list(ppls[2::2])
        reference = original if self.policy.reference == "original" else ppls[0]
        return list(ppls[1:]), [reference] * num_candidates

    def merge_request(self, steps: Steps, merged: Steps, left: int) -> ScoreRequest:
        """The current chain, and the chain in which steps `left` and `left + 1` are one."""
        if self.policy.scope == "suffix":
            return ScoreRequest((self._after(steps, left + 2), self._after(merged, left + 1)))
        return ScoreRequest((self.variant(steps), self.variant(merged)))

    def surprisal_request(self, steps: Steps, candidates: Sequence[int]) -> ScoreRequest:
        """The current chain, then the same text scored on the first token of each candidate: one forward for all."""
        whole = self.variant(steps)
        starts = [len(whole.text) - len(self._tail(steps, index)) for index in candidates]
        return ScoreRequest((whole, *(Variant(whole.text, (start, start + 1)) for start in starts)))

    def variant(self, steps: Steps) -> Variant:
        """The text of a whole chain, and the span that the scope scores."""
        text = self._text(steps)
        if self.policy.scope == "full":
            return Variant(text, None)
        if self.policy.scope == "answer":
            stated = answer_step(Chain("", tuple(step.text for step in steps), self.chain.answer))
            if self._stated is not None and stated is not None:
                start = len(text) - len(self._tail(steps, stated))
                return Variant(text, (start, start + len(steps[stated].text)))
            return self._after(steps, len(steps))
        return self._after(steps, 0)

    @property
    def joiner(self) -> str:
        """What joins the parts that are not neighbouring steps."""
        return self.chain.joiner if self.policy.separator is None else self.policy.separator

    def gap(self, step: Step) -> str:
        """What stands before a step in the scored text."""
        return step.gap if self.policy.separator is None else self.policy.separator

    def _after(self, steps: Steps, index: int) -> Variant:
        """The text of a whole chain, scored from step `index` on."""
        text = self._text(steps)
        return Variant(text, (len(text) - len(self._tail(steps, index)), len(text)))

    def _text(self, steps: Steps) -> str:
        return self.joiner.join([self.chain.question, self._tail(steps, 0)])

    def _tail(self, steps: Steps, start: int) -> str:
        """The text from step `start` on, without the gap before it."""
        parts = [part for step in steps[start:] for part in (self.gap(step), step.text)]
        text = "".join(parts[1:])
        if self.policy.append_answer and self._stated is None:
            text = self.joiner.join([text, self.chain.answer]) if start < len(steps) else self.chain.answer
        return text
