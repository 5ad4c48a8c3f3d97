"""SPIRIT-FT: shorten a reasoning chain to the steps that perplexity marks as critical.

Stepwise Perplexity-Guided Refinement (arXiv 2502.13260, SPIRIT-FT) as a generator without I/O:

    refine(chain, policy) -> Generator[ScoreRequest | MergeRequest, perplexities | text, Refinement]

Each round requests the perplexity of the chain and of the chain without each step. It selects the step whose removal
raises perplexity least, and compares the new perplexity with the reference. Above `t2` times the reference, this step
and all others are critical, and refinement stops. Below `t1` times the reference, the step is removed. In between, the
step is due to be merged into a neighbour.

Departures from a published digest of the paper (`RECIPES["digest"]` reproduces its code), all our choice: the question
only conditions; the step that states the answer stays; a step that is due for merging is not simply removed.
"""

import math
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from algorithms.chains import Chain, answer_step
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
    `ask_merger`: yield MergeRequests. `separator`: joins the parts of the text; None uses the chain's joiner.
    `append_answer`: if no step states the answer, append it to the chain and score it.
    """

    t1: float = 1.0
    t2: float = 1.2
    scope: Scope = "completion"
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
            raise ValueError("scope 'suffix' compares each removal with its own chain, so reference must be current")


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
    """One change to a chain. `index` refers to the chain before the edit; ratio = ppl_after / reference."""

    action: Literal["remove", "merge"]
    index: int
    before: str
    after: str
    ppl_before: float
    ppl_after: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Refinement:
    """The result. `stopped` is the stop reason: one_step | all_critical | nothing_removable | no_merge."""

    steps: tuple[str, ...]
    edits: tuple[Edit, ...]
    ppl_original: float
    ppl_refined: float
    stopped: str


Request: TypeAlias = ScoreRequest | MergeRequest
Reply: TypeAlias = Sequence[float] | str | None


@dataclass(slots=True)
class _Step:
    text: str
    fixed: bool  # protected, or found critical


def refine(chain: Chain, policy: Policy) -> Generator[Request, Reply, Refinement]:
    """Refine one chain. Send the reply to each request to get the next request. Returns the Refinement.

    Raises ValueError if the chain has no steps.
    """
    if not chain.steps:
        raise ValueError("refine needs a chain of at least one step, got none")
    stated = answer_step(chain)
    steps = [_Step(text, fixed=policy.protect_answer and index == stated) for index, text in enumerate(chain.steps)]
    builder = _VariantBuilder(chain, policy, states_answer=stated is not None)
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

        if not ppl < policy.t1 * reference:
            if policy.ask_merger:
                merge = yield from _try_merge(builder, steps, index, current, policy.t2 * reference)
                if merge is not None:
                    edits.append(merge)
                    ppl_known = merge.ppl_after
                    continue
            if policy.unmerged == "stop":
                stopped = "no_merge"
                break
            if policy.unmerged == "keep":
                steps[index].fixed = True
                ppl_known = current
                continue
        edits.append(Edit("remove", index, steps[index].text, "", current, ppl, costs[chosen]))
        del steps[index]
        # The suffix scope scores only part of the text, so its perplexity is not that of the whole chain.
        ppl_known = None if policy.scope == "suffix" else ppl

    texts = tuple(step.text for step in steps)
    return Refinement(texts, tuple(edits), ppl_original, current, stopped)


@dataclass(frozen=True, slots=True)
class _VariantBuilder:
    """Builds the text of a chain and of its variants, with their scored spans."""

    chain: Chain
    policy: Policy
    states_answer: bool

    def candidates(self, steps: list[_Step]) -> list[int]:
        """The indices of the removable steps; none if only one step is left."""
        if len(steps) == 1:
            return []
        found = [index for index, step in enumerate(steps) if not step.fixed]
        if self.policy.scope == "suffix":  # a step with no text after it leaves nothing to score
            found = [index for index in found if self._tail(steps, index + 1).strip()]
        return found

    def request(self, steps: list[_Step], candidates: list[int]) -> ScoreRequest:
        """The current chain, then the chain without each candidate.

        With the suffix scope, each candidate gives two variants, without and with it, scored on the text after it.
        """
        variants = [self.variant(steps)]
        for index in candidates:
            rest = steps[:index] + steps[index + 1 :]
            if self.policy.scope != "suffix":
                variants.append(self.variant(rest))
                continue
            suffix = len(self._tail(steps, index + 1))
            for text in (self._text(rest), self._text(steps)):
                variants.append(Variant(text, (len(text) - suffix, len(text))))
        return ScoreRequest(tuple(variants))

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
        start = len(self.chain.question) + len(self.separator)
        if self.policy.scope == "answer":
            stated = answer_step(Chain("", tuple(s.text for s in steps), self.chain.answer))
            tail = self._tail(steps, len(steps) if not self.states_answer or stated is None else stated)
            start = len(text) - len(tail)
        return Variant(text, (start, len(text)))

    @property
    def separator(self) -> str:
        return self.chain.joiner if self.policy.separator is None else self.policy.separator

    def _text(self, steps: list[_Step]) -> str:
        return self.separator.join([self.chain.question, *self._parts(steps, 0)])

    def _tail(self, steps: list[_Step], start: int) -> str:
        return self.separator.join(self._parts(steps, start))

    def _parts(self, steps: list[_Step], start: int) -> list[str]:
        parts = [step.text for step in steps[start:]]
        if self.policy.append_answer and not self.states_answer:
            parts.append(self.chain.answer)
        return parts


def _request_scores(request: ScoreRequest) -> Generator[Request, Reply, Sequence[float]]:
    reply = yield request
    assert not isinstance(reply, str), "the reply to a ScoreRequest must be perplexities"
    assert reply is not None, "the reply to a ScoreRequest must be perplexities"
    assert len(reply) == len(request.variants), "the reply needs one perplexity per variant"
    return reply


def _try_merge(
    builder: _VariantBuilder, steps: list[_Step], index: int, current: float, limit: float
) -> Generator[Request, Reply, Edit | None]:
    """Try to merge step `index` with the next step, then with the previous one (the order is our choice).

    On success, changes `steps` and returns the edit. The merged step must be shorter than the two steps together
    and keep the answer and every number of the step that states it. The new perplexity must not exceed `limit`.
    """
    stated = answer_step(Chain("", tuple(step.text for step in steps), builder.chain.answer))
    for left in (index, index - 1):
        if not 0 <= left < len(steps) - 1:
            continue
        first, second = steps[left], steps[left + 1]
        text = yield MergeRequest(builder.chain.question, first.text, second.text)
        assert text is None or isinstance(text, str), "the reply to a MergeRequest must be a text or None"
        stating = steps[stated].text if stated in (left, left + 1) else None
        if text is None or not _is_faithful(text, first.text, second.text, stating, builder.chain.answer):
            continue
        merged = _Step(text, fixed=first.fixed or second.fixed)
        shorter = [*steps[:left], merged, *steps[left + 2 :]]
        ppls = yield from _request_scores(ScoreRequest((builder.variant(steps), builder.variant(shorter))))
        if ppls[1] <= limit:
            before = builder.separator.join([first.text, second.text])
            steps[:] = shorter
            return Edit("merge", left, before, text, current, ppls[1], _ratio(ppls[1], current))
    return None


def _is_faithful(text: str, first: str, second: str, stating: str | None, answer: str) -> bool:
    """Whether a merged step is shorter than the two together and keeps the answer and numbers of `stating`, if any."""
    if not text.strip() or len(text) >= len(first) + len(second):
        return False
    if stating is None:
        return True
    states_answer = not answer.strip() or answer_step(Chain("", (text,), answer)) is not None
    return states_answer and _numbers(stating) <= _numbers(text)


def _numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)))


def _ratio(ppl: float, reference: float) -> float:
    return math.inf if math.isinf(ppl) or reference == 0 else ppl / reference
