"""The merge of two neighbouring steps (arXiv 2502.13260: "40-4=36" and "36*3/4=27" become "(40-4)*3/4=27").

A merger, some language model, writes the merged step. It is refused unless it is faithful, by the rules in RULES. They
are ours: the paper trusts its model. Small models drop numbers, invent some, add a greeting, or answer in another
language; each rule has the name under which the report counts what it refused.
"""

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from algorithms.chains import STATEMENT, Chain, answer_step
from algorithms.markup import is_balanced
from algorithms.refinement.dependence import numbers_of, read_facts
from algorithms.refinement.draft import Draft, Step, Steps
from algorithms.refinement.outcomes import Edit, MergeAttempt, ratio_of
from algorithms.refinement.requests import MergeRequest, Reply, Request, request_merge, request_scores
from algorithms.step_checks import check

MAX_SHOWN: Final = 500  # characters of a refused text that an attempt keeps
KNOWN_WORDS: Final = 0.5  # the share of a merged step's words that the two steps must hold


@dataclass(frozen=True, slots=True)
class Merge:
    """What the rules look at: the merged text, and the two steps that it replaces in their chain."""

    text: str
    first: str
    second: str
    gap: str  # between the two
    chain: Chain  # its question and answer
    before: tuple[str, ...]  # the steps before the two
    after: tuple[str, ...]  # the steps after them
    states_answer: bool  # one of the two does

    @property
    def replaced(self) -> str:
        """The two steps as one text."""
        return self.first + self.gap + self.second


class Merging:
    """The merges of one chain: tries them, and remembers all attempts. No pair of steps is asked for twice."""

    def __init__(self, draft: Draft) -> None:
        self.attempts: list[MergeAttempt] = []
        self._draft = draft
        self._asked: set[tuple[str, str]] = set()

    def attempt(self, steps: Steps, index: int, ppl_original: float) -> Generator[Request, Reply, Edit | None]:
        """Try to merge step `index` with the next step, then with the previous one (the order is our choice)."""
        for left in (index, index - 1):
            if 0 <= left < len(steps) - 1 and self._draft.can_score_after(steps, left + 1):
                edit = yield from self._attempt(steps, left, ppl_original)
                if edit is not None:
                    return edit
        return None

    def applied(self, steps: Steps, edit: Edit) -> list[Step]:
        """The steps after an accepted merge."""
        first, second = steps[edit.index], steps[edit.index + 1]
        merged = Step(edit.after, first.gap, first.is_fixed or second.is_fixed, is_balanced(edit.after))
        return [*steps[: edit.index], merged, *steps[edit.index + 2 :]]

    def _attempt(self, steps: Steps, left: int, ppl_original: float) -> Generator[Request, Reply, Edit | None]:
        """Merge steps `left` and `left + 1`, if it is faithful and perplexity stays within t2 times the reference."""
        draft, first, second = self._draft, steps[left], steps[left + 1]
        if (first.text, second.text) in self._asked:
            return None
        self._asked.add((first.text, second.text))
        reply = yield from request_merge(MergeRequest(draft.chain.question, first.text, second.text))
        text = reply.text.strip()
        problem = reply.problem or refusal(self._merge(steps, left, text))
        if problem is not None:
            self.attempts.append(MergeAttempt(left, problem, text[:MAX_SHOWN]))
            return None
        before = first.text + draft.gap(second) + second.text
        edit = Edit("merge", left, before, text, None, None, None)
        unmerged, ppl = yield from request_scores(draft.merge_request(steps, self.applied(steps, edit), left))
        reference = ppl_original if draft.policy.reference == "original" else unmerged
        is_likely = ppl <= draft.policy.t2 * reference
        self.attempts.append(MergeAttempt(left, "accepted" if is_likely else "perplexity", text[:MAX_SHOWN]))
        return Edit("merge", left, before, text, unmerged, ppl, ratio_of(ppl, reference)) if is_likely else None

    def _merge(self, steps: Steps, left: int, text: str) -> Merge:
        texts = tuple(step.text for step in steps)
        return merge_of(self._draft.chain, texts, left, text, self._draft.gap(steps[left + 1]))


def merge_of(chain: Chain, steps: tuple[str, ...], left: int, text: str, gap: str) -> Merge:
    """The merge of `steps[left]` and the next one into `text`. The steps are those that are left of the chain."""
    is_stating = answer_step(Chain("", steps, chain.answer)) in (left, left + 1)
    return Merge(text, steps[left], steps[left + 1], gap, chain, steps[:left], steps[left + 2 :], is_stating)


def refusal(merge: Merge) -> str | None:
    """The name of the first rule that a merge breaks; None if it is faithful."""
    return next((name for name, is_broken in RULES.items() if is_broken(merge)), None)


def _is_empty(merge: Merge) -> bool:
    return not merge.text


def _is_not_shorter(merge: Merge) -> bool:
    return len(merge.text) >= len(merge.replaced)


def _is_several_lines(merge: Merge) -> bool:
    """More lines than the two steps have: it would be several steps when the corpus is read again."""
    return merge.text.count("\n") > max(merge.first.count("\n"), merge.second.count("\n"))


def _is_unbalanced(merge: Merge) -> bool:
    return is_balanced(merge.replaced) and not is_balanced(merge.text)


def _has_other_words(merge: Merge) -> bool:
    """Most of its words are in none of the two steps: another language, a comment, an apology."""
    words = _words(merge.text)
    known = set(_words(merge.replaced))
    return bool(words) and sum(word in known for word in words) < KNOWN_WORDS * len(words)


def _changes_answer(merge: Merge) -> bool:
    """One of the two steps states the answer, and the merged one does not, or not as plainly (#### 64, a box)."""
    answer = merge.chain.answer.strip()
    if not merge.states_answer or not answer:
        return False
    is_plain = STATEMENT.search(merge.replaced) is not None
    return answer_step(Chain("", (merge.text,), answer)) is None or (is_plain and not STATEMENT.search(merge.text))


def _loses_used(merge: Merge) -> bool:
    """A later step uses something that the two steps state, and neither the merged one nor an earlier one does."""
    needed: set[str] = set()
    open_facts = set(read_facts(merge.replaced).stated)
    for text in merge.after:
        later = read_facts(text)
        needed |= open_facts & (later.stated - later.derived)
        open_facts -= later.stated
    known = read_facts(merge.text).stated.union(*(read_facts(text).stated for text in _given(merge)))
    return not needed <= known


def _loses_number(merge: Merge) -> bool:
    """It lacks a number of the two steps that they did not calculate on the way."""
    calculated = read_facts(merge.first).derived | read_facts(merge.second).derived
    return not numbers_of(merge.replaced) - calculated <= numbers_of(merge.text)


def _invents_number(merge: Merge) -> bool:
    """It states a number that nothing before it, nor the two steps, state."""
    known = numbers_of(merge.replaced).union(*(numbers_of(text) for text in _given(merge)))
    return not numbers_of(merge.text) <= known


def _leaves_unexplained(merge: Merge) -> bool:
    """It uses a number that one of the two steps calculates, and does not calculate it: 24 + 12 = 36, without 24."""
    given = set().union(*(numbers_of(text) for text in _given(merge)))
    two = read_facts(merge.first).derived | read_facts(merge.second).derived
    own = {number for equation in read_facts(merge.text).equations for number in equation.gives}
    return not numbers_of(merge.text) & two - given <= own


def _claims_false(merge: Merge) -> bool:
    """It states a calculation that does not hold."""
    return any(claim.verdict is False for claim in check(merge.text))


def _given(merge: Merge) -> Iterator[str]:
    yield merge.chain.question
    yield from merge.before


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]{2,}", text.lower())


RULES: Final[Mapping[str, Callable[[Merge], bool]]] = MappingProxyType(
    {
        "empty": _is_empty,
        "not_shorter": _is_not_shorter,
        "several_lines": _is_several_lines,
        "unbalanced": _is_unbalanced,
        "other_words": _has_other_words,
        "answer_changed": _changes_answer,
        "fact_lost": _loses_used,
        "number_lost": _loses_number,
        "number_invented": _invents_number,
        "unexplained": _leaves_unexplained,
        "claim_false": _claims_false,
    }
)
