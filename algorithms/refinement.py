"""SPIRIT-FT: shorten one chain of reasoning to the steps perplexity says it needs.

Stepwise Perplexity-Guided Refinement (arXiv 2502.13260; papers.md A2), as a generator that does no I/O:

    refine(chain, policy) -> Generator[ScoreRequest | MergeRequest, perplexities | text, Refinement]

Each round asks for the perplexity of the chain and of the chain without each step, and takes the step
whose removal costs least: above `t2` times the reference it is critical and all others are too; below
`t1` it goes; in between it should be merged into a neighbour.

Departures from the paper's digest (`RECIPES["digest"]` is the digest): the question only conditions, the
step that states the answer stays, and a step is not simply dropped where merging is due.
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
    """Every decision the algorithm leaves open. Raises ValueError where they contradict each other.

    `t1`, `t2`: ratios to the reference perplexity, below t1 remove, above t2 stop. `scope`: which tokens
    count (papers.md A1). `reference`: the perplexity compared with, of the chain as it is now or as it
    came. `unmerged`: what happens to a step that should be merged when no merge was asked for or accepted:
    `drop` it, `stop` refining, or `keep` it as critical and look at the next. `ask_merger`: yield
    MergeRequests. `separator`: joins the parts of the text, None for the chain's own joiner.
    `append_answer`: score the answer behind a chain none of whose steps states it.
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
            raise ValueError("scope answer scores the step that states the answer: it needs protect_answer")
        if self.scope == "suffix" and self.reference == "original":
            raise ValueError("scope suffix compares each removal with its own chain: reference must be current")


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
    """A text, and the characters of it that are scored (None: every token but the first)."""

    text: str
    span: Span | None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Asks for the perplexity of each variant, in order. The first one is the current chain."""

    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """Asks for one step that says what two adjacent ones say, or None if there is none to be had."""

    question: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to a chain. `index` counts in the chain before the edit; ratio = ppl_after / reference."""

    action: Literal["remove", "merge"]
    index: int
    before: str
    after: str
    ppl_before: float
    ppl_after: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Refinement:
    """The outcome. `stopped`: one_step | all_critical | nothing_removable | no_merge."""

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
    """Refine one chain. Send the answer of each request to get the next; the Refinement is returned.

    Raises ValueError if the chain has no step.
    """
    if not chain.steps:
        raise ValueError("refine needs a chain of at least one step, got none")
    stated = answer_step(chain)
    steps = [_Step(text, fixed=policy.protect_answer and index == stated) for index, text in enumerate(chain.steps)]
    page = _Page(chain, policy, states_answer=stated is not None)
    edits: list[Edit] = []
    ppl_original: float | None = None
    ppl_known: float | None = None  # of the current chain, where a removal has already told it

    while True:
        candidates = page.candidates(steps)
        if not candidates and ppl_known is not None:
            current = ppl_known
        else:
            ppls = yield from _score(page.request(steps, candidates))
            current = ppls[0]
        if ppl_original is None:
            ppl_original = current
        if not candidates:
            stopped = "one_step" if len(steps) == 1 else "nothing_removable"
            break

        without, references = page.compare(ppls, candidates, current, ppl_original)
        costs = [_ratio(ppl, reference) for ppl, reference in zip(without, references, strict=True)]
        # The lowest index on a tie; division may round two perplexities to one ratio.
        chosen = min(range(len(candidates)), key=lambda i: (costs[i], without[i]))
        index, ppl, reference = candidates[chosen], without[chosen], references[chosen]
        if not ppl <= policy.t2 * reference:
            stopped = "all_critical"
            break

        if not ppl < policy.t1 * reference:
            if policy.ask_merger:
                merge = yield from _merge(page, steps, index, current, policy.t2 * reference)
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
        # The suffix scope scores another part of the text than the chain's own perplexity.
        ppl_known = None if policy.scope == "suffix" else ppl

    texts = tuple(step.text for step in steps)
    return Refinement(texts, tuple(edits), ppl_original, current, stopped)


@dataclass(frozen=True, slots=True)
class _Page:
    """Writes chains as texts and says which characters count."""

    chain: Chain
    policy: Policy
    states_answer: bool

    def candidates(self, steps: list[_Step]) -> list[int]:
        """Indices of the steps that may go; none once a single step is left."""
        if len(steps) == 1:
            return []
        found = [index for index, step in enumerate(steps) if not step.fixed]
        if self.policy.scope == "suffix":  # nothing would be scored behind the last step
            found = [index for index in found if self._tail(steps, index + 1).strip()]
        return found

    def request(self, steps: list[_Step], candidates: list[int]) -> ScoreRequest:
        """The current chain, then it without each candidate; for the suffix scope also both ways."""
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
        """For each candidate the perplexity without it, and the reference it is held against."""
        if self.policy.scope == "suffix":
            return list(ppls[1::2]), list(ppls[2::2])
        reference = original if self.policy.reference == "original" else current
        return list(ppls[1:]), [reference] * len(candidates)

    def variant(self, steps: list[_Step]) -> Variant:
        """A whole chain with the characters that its own perplexity scores."""
        text = self._text(steps)
        if self.policy.scope == "full":
            return Variant(text, None)
        start = len(self.chain.question) + len(self._separator)
        if self.policy.scope == "answer":
            stated = answer_step(Chain("", tuple(s.text for s in steps), self.chain.answer))
            tail = self._tail(steps, len(steps) if not self.states_answer or stated is None else stated)
            start = len(text) - len(tail)
        return Variant(text, (start, len(text)))

    @property
    def _separator(self) -> str:
        return self.chain.joiner if self.policy.separator is None else self.policy.separator

    def _text(self, steps: list[_Step]) -> str:
        return self._separator.join([self.chain.question, *self._parts(steps, 0)])

    def _tail(self, steps: list[_Step], start: int) -> str:
        return self._separator.join(self._parts(steps, start))

    def _parts(self, steps: list[_Step], start: int) -> list[str]:
        parts = [step.text for step in steps[start:]]
        if self.policy.append_answer and not self.states_answer:
            parts.append(self.chain.answer)
        return parts


def _score(request: ScoreRequest) -> Generator[Request, Reply, Sequence[float]]:
    reply = yield request
    assert not isinstance(reply, str), "a ScoreRequest is answered with perplexities"
    assert reply is not None, "a ScoreRequest is answered with perplexities"
    assert len(reply) == len(request.variants), "one perplexity for each variant"
    return reply


def _merge(
    page: _Page, steps: list[_Step], index: int, current: float, limit: float
) -> Generator[Request, Reply, Edit | None]:
    """Try to merge step `index` with the next step, then with the previous one (papers.md A2).

    Changes `steps` and returns the edit when the merged step is shorter than the two, keeps every number
    of the step that states the answer, and leaves the perplexity at or under `limit`.
    """
    stated = answer_step(Chain("", tuple(step.text for step in steps), page.chain.answer))
    for left in (index, index - 1):
        if not 0 <= left < len(steps) - 1:
            continue
        first, second = steps[left], steps[left + 1]
        text = yield MergeRequest(page.chain.question, first.text, second.text)
        assert text is None or isinstance(text, str), "a MergeRequest is answered with a text or None"
        stating = steps[stated].text if stated in (left, left + 1) else None
        if text is None or not _is_faithful(text, first.text, second.text, stating, page.chain.answer):
            continue
        merged = _Step(text, fixed=first.fixed or second.fixed)
        shorter = [*steps[:left], merged, *steps[left + 2 :]]
        ppls = yield from _score(ScoreRequest((page.variant(steps), page.variant(shorter))))
        if ppls[1] <= limit:
            before = page._separator.join([first.text, second.text])
            steps[:] = shorter
            return Edit("merge", left, before, text, current, ppls[1], _ratio(ppls[1], current))
    return None


def _is_faithful(text: str, first: str, second: str, stating: str | None, answer: str) -> bool:
    """Whether a merged step is shorter than the two and, if one of them states the answer, states it too."""
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
