"""SPIRIT-FT: shorten a reasoning chain to the steps that perplexity marks as critical.

Stepwise Perplexity-Guided Refinement (arXiv 2502.13260, SPIRIT-FT) as a generator without I/O:

    refine(chain, policy) -> Generator[ScoreRequest | MergeRequest, perplexities | text, Refinement]

Each round requests the perplexity of the chain and of the chain without each step. It selects the step whose removal
raises perplexity least, and compares the new perplexity with the reference. Above `t2` times the reference, this step
and all others are critical, and refinement stops. Below `t1` times the reference, the step is removed. In between, the
step is due to be merged into a neighbour.

Departures from a published digest of the paper (`RECIPES["digest"]` reproduces its code), all our choice: only the text
after a step judges it; the step that states the answer stays; a step that is due for merging is not simply removed; no
removal leaves half of a formula, an environment or a code block behind.
"""

import math
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from algorithms.chains import Chain, answer_step, wider_gap
from algorithms.markup import is_balanced
from algorithms.perplexity import Scope, Span

Reference: TypeAlias = Literal["current", "original"]
Unmerged: TypeAlias = Literal["drop", "stop", "keep"]


@dataclass(frozen=True, slots=True)
class Policy:
    """The options of the refinement. Raises ValueError if they contradict each other.

    `t1`, `t2`: ratios to the reference perplexity; remove below t1, stop above t2. `scope`: the scored tokens (see
    `algorithms.perplexity`). `reference`: the perplexity of the current or of the original chain. `protect_answer`:
    never remove the step that states the answer. `unmerged`: the action for a step that is due for merging if no
    merge was requested or accepted: `drop` it, `stop` refining, or `keep` it as critical and try the next step.
    `ask_merger`: yield MergeRequests. `separator`: joins the parts of the scored text; None uses the chain's own.
    `append_answer`: if no step states the answer, append it to the chain and score it.
    """

    t1: float = 1.0
    t2: float = 1.2
    scope: Scope = "suffix"
    reference: Reference = "current"
    protect_answer: bool = True
    unmerged: Unmerged = "stop"
    ask_merger: bool = False
    separator: str | None = None
    append_answer: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.t1 <= self.t2 < math.inf:
            raise ValueError(f"t1 and t2 must satisfy 0 < t1 <= t2, got t1={self.t1:g} and t2={self.t2:g}")
        if self.scope == "answer" and not self.protect_answer:
            raise ValueError("scope 'answer' scores the step that states the answer, so it needs protect_answer")
        if self.scope == "suffix" and self.reference == "original":
            raise ValueError(
                "scope 'suffix' compares each removal with its own chain, so reference must be current; "
                "scope 'completion' takes either"
            )


RECIPES: Final[dict[str, Policy]] = {
    "sluice": Policy(),
    "digest": Policy(
        t1=0.95,
        scope="full",
        protect_answer=False,
        unmerged="drop",
        separator=" ",
        append_answer=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A text and its scored character span (None: every token except the first)."""

    text: str
    span: Span | None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A request for the perplexity of each variant, in order. The first variant is the current chain."""

    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """A request to merge two adjacent steps into one. The reply is the merged step, or None if merging failed."""

    question: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to a chain. `index` refers to the chain before the edit.

    `ppl_before` and `ppl_after` are the perplexities of the scored text before and after the edit. In the suffix scope
    this is the text that follows the edited steps, the same text both times; in the other scopes it is what the scope
    selects from the whole chain. ratio = ppl_after / reference, and the reference is `ppl_before`, or the perplexity of
    the original chain if the policy says so.
    """

    action: Literal["remove", "merge"]
    index: int
    before: str
    after: str
    ppl_before: float
    ppl_after: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Refinement:
    """The result. `stopped` is the stop reason: one_step | all_critical | nothing_removable | no_merge.

    `ppl_original` and `ppl_refined` are those of the whole chain: of everything after the question in the suffix scope,
    and in the other scopes of what the scope selects. `separators` are as in a Chain.
    """

    steps: tuple[str, ...]
    separators: tuple[str, ...]
    edits: tuple[Edit, ...]
    ppl_original: float
    ppl_refined: float
    stopped: str


Request: TypeAlias = ScoreRequest | MergeRequest
Reply: TypeAlias = Sequence[float] | str | None


@dataclass(frozen=True, slots=True)
class _Step:
    text: str
    gap: str  # the text between the step before and this one
    fixed: bool  # protected, or found critical
    is_balanced: bool


def refine(chain: Chain, policy: Policy) -> Generator[Request, Reply, Refinement]:
    """Refine one chain. Send the reply to each request to get the next request. Returns the Refinement.

    Raises ValueError if the chain has no steps.
    """
    if not chain.steps:
        raise ValueError("refine needs a chain of at least one step, got none")
    stated = answer_step(chain)
    gaps = ("", *(chain.separators or (chain.joiner,) * (len(chain.steps) - 1)))
    steps = [
        _Step(text, gap, policy.protect_answer and index == stated, is_balanced(text))
        for index, (text, gap) in enumerate(zip(chain.steps, gaps, strict=True))
    ]
    builder = _VariantBuilder(chain, policy, states_answer=stated is not None, keep_balance=is_balanced(chain.text))
    edits: list[Edit] = []
    ppl_original: float | None = None
    ppl_known: float | None = None  # the perplexity of the current chain, if an earlier round scored it

    while True:
        candidates = builder.candidates(steps)
        if not candidates and ppl_known is not None:
            current = ppl_known
        else:
            ppls = yield from _request_scores(builder.request(steps, candidates))
            current = ppls[0]
        if ppl_original is None:
            ppl_original = current
        if not candidates:
            stopped = "one_step" if len(steps) == 1 else "nothing_removable"
            break

        without, references = builder.compare(ppls, candidates, current, ppl_original)
        costs = [_ratio(ppl, reference) for ppl, reference in zip(without, references, strict=True)]
        # A tie goes to the lowest index. `without` orders perplexities that division rounds to one ratio.
        chosen = min(range(len(candidates)), key=lambda i: (costs[i], without[i]))
        index, ppl, reference = candidates[chosen], without[chosen], references[chosen]
        if not ppl <= policy.t2 * reference:
            stopped = "all_critical"
            break

        # The suffix scope scores only part of the text, so its perplexity is not that of the whole chain.
        scores_whole = policy.scope != "suffix"
        if not ppl < policy.t1 * reference:
            if policy.ask_merger:
                merge = yield from _try_merge(builder, steps, index, ppl_original)
                if merge is not None:
                    edits.append(merge)
                    ppl_known = merge.ppl_after if scores_whole else None
                    continue
            if policy.unmerged == "stop":
                stopped = "no_merge"
                break
            if policy.unmerged == "keep":
                steps[index] = replace(steps[index], fixed=True)
                ppl_known = current
                continue
        before = current if scores_whole else reference
        edits.append(Edit("remove", index, steps[index].text, "", before, ppl, costs[chosen]))
        steps = _without(steps, index)
        ppl_known = ppl if scores_whole else None

    separators = tuple(step.gap for step in steps[1:]) if chain.separators else ()
    return Refinement(tuple(step.text for step in steps), separators, tuple(edits), ppl_original, current, stopped)


def _without(steps: list[_Step], index: int) -> list[_Step]:
    """The steps without one. Of the gaps around it, the one with more new lines stays."""
    before, after = steps[:index], steps[index + 1 :]
    if before and after:
        gaps = steps[index].gap, after[0].gap
        if gaps[0] != gaps[1]:
            after[0] = replace(after[0], gap=wider_gap(*gaps))
    return before + after


@dataclass(frozen=True, slots=True)
class _VariantBuilder:
    """Builds the text of a chain and of its variants, with their scored spans."""

    chain: Chain
    policy: Policy
    states_answer: bool
    keep_balance: bool

    def candidates(self, steps: list[_Step]) -> list[int]:
        """The indices of the removable steps; none if only one step is left."""
        if len(steps) == 1:
            return []
        found = [index for index, step in enumerate(steps) if not step.fixed and self.can_score_after(steps, index)]
        if self.keep_balance:
            found = [
                index
                for index in found
                if steps[index].is_balanced or is_balanced(self._tail(_without(steps, index), 0))
            ]
        return found

    def can_score_after(self, steps: list[_Step], index: int) -> bool:
        """Whether the scope scores any text if step `index` is edited; the suffix scope needs text after it."""
        return self.policy.scope != "suffix" or self._tail(steps, index + 1).strip() != ""

    def request(self, steps: list[_Step], candidates: list[int]) -> ScoreRequest:
        """The current chain, then the chain without each candidate.

        With the suffix scope, each candidate gives two variants, without and with it, scored on the text after it.
        """
        variants = [self.variant(steps)]
        for index in candidates:
            without = _without(steps, index)
            if self.policy.scope == "suffix":
                length = len(self._tail(steps, index + 1))
                texts = self._text(without), variants[0].text
                variants += [Variant(text, (len(text) - length, len(text))) for text in texts]
            else:
                variants.append(self.variant(without))
        return ScoreRequest(tuple(variants))

    def merge_request(self, steps: list[_Step], merged: list[_Step], left: int) -> ScoreRequest:
        """The current chain, and the chain in which steps `left` and `left + 1` are one."""
        if self.policy.scope == "suffix":
            return ScoreRequest((self._after(steps, left + 2), self._after(merged, left + 1)))
        return ScoreRequest((self.variant(steps), self.variant(merged)))

    def _after(self, steps: list[_Step], index: int) -> Variant:
        """The text of a whole chain, scored from step `index` on."""
        text = self._text(steps)
        return Variant(text, (len(text) - len(self._tail(steps, index)), len(text)))

    def compare(
        self, ppls: Sequence[float], candidates: list[int], current: float, original: float
    ) -> tuple[list[float], list[float]]:
        """For each candidate, the perplexity without it and the reference perplexity."""
        if self.policy.scope == "suffix":
            return list(ppls[1::2]), list(ppls[2::2])
        reference = original if self.policy.reference == "original" else current
        return list(ppls[1:]), [reference] * len(candidates)

    def variant(self, steps: list[_Step]) -> Variant:
        """The text of a whole chain, and the span that the scope scores."""
        text = self._text(steps)
        if self.policy.scope == "full":
            return Variant(text, None)
        if self.policy.scope == "answer":
            stated = answer_step(Chain("", tuple(step.text for step in steps), self.chain.answer))
            if self.states_answer and stated is not None:
                start = len(text) - len(self._tail(steps, stated))
                return Variant(text, (start, start + len(steps[stated].text)))
            return self._after(steps, len(steps))
        return self._after(steps, 0)

    @property
    def joiner(self) -> str:
        """What joins the parts that are not neighbouring steps."""
        return self.chain.joiner if self.policy.separator is None else self.policy.separator

    def gap(self, step: _Step) -> str:
        """What stands before a step in the scored text."""
        return step.gap if self.policy.separator is None else self.policy.separator

    def _text(self, steps: list[_Step]) -> str:
        return self.joiner.join([self.chain.question, self._tail(steps, 0)])

    def _tail(self, steps: list[_Step], start: int) -> str:
        """The text from step `start` on, without the gap before it."""
        parts = [part for step in steps[start:] for part in (self.gap(step), step.text)]
        text = "".join(parts[1:])
        if self.policy.append_answer and not self.states_answer:
            text = self.joiner.join([text, self.chain.answer]) if start < len(steps) else self.chain.answer
        return text


def _request_scores(request: ScoreRequest) -> Generator[Request, Reply, Sequence[float]]:
    reply = yield request
    assert not isinstance(reply, str), "the reply to a ScoreRequest must be perplexities"
    assert reply is not None, "the reply to a ScoreRequest must be perplexities"
    assert len(reply) == len(request.variants), "the reply needs one perplexity per variant"
    return reply


def _try_merge(
    builder: _VariantBuilder, steps: list[_Step], index: int, original: float
) -> Generator[Request, Reply, Edit | None]:
    """Try to merge step `index` with the next step, then with the previous one (the order is our choice).

    On success, changes `steps` and returns the edit. The merged step must be faithful, and the new perplexity must not
    exceed `t2` times the reference.
    """
    policy, answer = builder.policy, builder.chain.answer
    stated = answer_step(Chain("", tuple(step.text for step in steps), answer))
    for left in (index, index - 1):
        if not 0 <= left < len(steps) - 1 or not builder.can_score_after(steps, left + 1):
            continue
        first, second = steps[left], steps[left + 1]
        text = yield MergeRequest(builder.chain.question, first.text, second.text)
        assert text is None or isinstance(text, str), "the reply to a MergeRequest must be a text or None"
        before = first.text + builder.gap(second) + second.text
        stating = steps[stated].text if stated in (left, left + 1) else None
        if text is None or not is_faithful(text, before, stating, answer):
            continue
        merged = _Step(text, first.gap, first.fixed or second.fixed, is_balanced(text))
        shorter = [*steps[:left], merged, *steps[left + 2 :]]
        unmerged_ppl, ppl = yield from _request_scores(builder.merge_request(steps, shorter, left))
        reference = original if policy.reference == "original" else unmerged_ppl
        if ppl <= policy.t2 * reference:
            steps[:] = shorter
            return Edit("merge", left, before, text, unmerged_ppl, ppl, _ratio(ppl, reference))
    return None


def is_faithful(text: str, before: str, stating: str | None, answer: str) -> bool:
    """Whether a merged step is shorter than what it replaces, and whole.

    It must keep the answer and every number of `stating`, the step that states the answer, if that is one of the two.
    """
    if not text.strip() or len(text) >= len(before) or (is_balanced(before) and not is_balanced(text)):
        return False
    if stating is None:
        return True
    states_answer = not answer.strip() or answer_step(Chain("", (text,), answer)) is not None
    return states_answer and _numbers(stating) <= _numbers(text)


def _numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)))


def _ratio(ppl: float, reference: float) -> float:
    return math.inf if math.isinf(ppl) or reference == 0 else ppl / reference
