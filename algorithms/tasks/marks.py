"""Redundant steps: steps that say nothing new, worded from the needed steps around them.

    restating   the question, a given or the result of the step before, again
    announcing  what comes next, without any result
    checking    an inverse or repeated calculation of a result that is already stated
    remark      a comment on the work
    detour      a true but useless calculation from givens, in one step or two, which the solution takes back

The wordings of each kind form two disjoint sets, "a" and "b". Tune a criterion on one and test it on the other.
"""

import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from algorithms.tasks.arithmetic import numbers
from algorithms.tasks.problem import MarkedProblem, SolvedProblem

Wordings: TypeAlias = Literal["a", "b", "all"]
Place: TypeAlias = Mapping[str, str]  # what wordings can refer to at a place: field -> text

# A wording fits a place that has all its fields. {start} and {after} are empty texts: they say that a wording fits only
# at the start, or only after a step. A line break separates two steps.
WORDINGS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "restating": {
            "a": (
                "We need to find {asked}.",
                "We are told that {given}.",
                "So {what} is {value}.",
                "As we have just found, {what} is {value}.",
                "In other words, {expression} equals {value}.",
                "Put differently, {operation} gives {value}.",
                "To repeat the problem: {question}",
            ),
            "b": (
                "What we are looking for is {asked}.",
                "Recall that {given}.",
                "This means that {what} is {value}.",
                "We now know that {what} is {value}.",
                "That is to say, {expression} comes to {value}.",
                "As we have seen, {operation} yields {value}.",
                "Let us read the problem again: {question}",
            ),
        },
        "announcing": {
            "a": (
                "First, we work out {first}.",
                "Next, we work out {next}.",
                "Now let us find {next}.",
                "{after}Let us move on to the next part.",
                "{after}We can now take the next step.",
            ),
            "b": (
                "We begin with {first}.",
                "Now we turn to {next}.",
                "The next thing to find is {next}.",
                "{after}Let us see what comes next.",
                "{after}Now we go on with the solution.",
            ),
        },
        "checking": {
            "a": (
                "To check, we note that {inverse}.",
                "We can verify this: {inverse}.",
                "Let us check that again: {expression} = {value}.",
                "Doing the calculation once more, {expression} = {value}.",
                "A second look confirms that {expression} = {value}.",
            ),
            "b": (
                "Indeed, {inverse}, so this is right.",
                "Working backwards, {inverse}, as it should be.",
                "Computing it again gives {expression} = {value}.",
                "Double-checking, we see that {expression} = {value}.",
                "We can be sure of this, because {expression} = {value}.",
            ),
        },
        "remark": {
            "a": (
                "{start}Let us think about this step by step.",
                "{start}This is not hard if we take it slowly.",
                "{after}So far, so good.",
                "{after}That was straightforward.",
                "{after}We are making good progress.",
                "It is important to work carefully here.",
            ),
            "b": (
                "{start}Let us read the problem carefully before we begin.",
                "{start}Problems like this one become easy with a clear plan.",
                "{after}Good, that part is done.",
                "{after}This brings us closer to the answer.",
                "{after}Everything is going well.",
                "We should take care not to make a mistake.",
            ),
        },
        "detour": {
            "a": (
                "We could also compute {detour}, but that does not help, so we go back.",
                "One might try {detour}, but this is not needed, so we drop it.",
                "From the numbers in the question we can form {detour}, but this is no use, so we go back.",
                "Let us try {detour}.\nThat does not lead anywhere, so we go back.",
            ),
            "b": (
                "At first {detour} looks useful, but it has nothing to do with the question, so we leave it aside.",
                "Another idea is {detour}, but it leads nowhere, so we return to the problem.",
                "It is tempting to calculate {detour}, but the question does not need it, so we forget it.",
                "Perhaps we should calculate {detour}.\nNo, that is not what we need, so we return to the solution.",
            ),
        },
    }
)
KINDS: Final = tuple(WORDINGS)


@dataclass(frozen=True, slots=True)
class Inserted:
    """Steps with redundant ones among them, the indices of those, and their kinds."""

    steps: tuple[str, ...]
    redundant: tuple[int, ...]
    kinds: tuple[str, ...]


def marked(solved: SolvedProblem, rng: random.Random, redundancy: float, wordings: Wordings = "all") -> MarkedProblem:
    """A solved problem with redundant steps, none of them behind the answer."""
    texts = [step.text for step in solved.steps]
    inserted = insert(texts, _places(solved, rng), rng, redundancy, wordings)
    return MarkedProblem(solved.question, inserted.steps, solved.answer, inserted.redundant, inserted.kinds)


def insert(
    steps: Sequence[str], places: Sequence[Place], rng: random.Random, redundancy: float, wordings: Wordings
) -> Inserted:
    """The steps, with a redundant one at each place with probability `redundancy`.

    `places[i]` is the place before step i; an empty one takes no redundant step. No wording occurs twice as long as
    others of its kind fit.
    """
    if not 0 <= redundancy <= 1:
        raise ValueError(f"redundancy must be between 0 and 1, got {redundancy}")
    written: list[str] = []
    redundant: list[int] = []
    kinds: list[str] = []
    used: set[str] = set()
    for step, place in zip(steps, places, strict=True):
        if place and rng.random() < redundancy:
            fitting = {kind: _fitting(kind, wordings, place) for kind in KINDS}
            kind = rng.choice([kind for kind in KINDS if fitting[kind]])
            wording = rng.choice([each for each in fitting[kind] if each not in used] or fitting[kind])
            used.add(wording)
            for text in wording.format(**place).split("\n") if kind == "detour" else [wording.format(**place)]:
                redundant.append(len(written))
                kinds.append(kind)
                written.append(text)
        written.append(step)
    return Inserted(tuple(written), tuple(redundant), tuple(kinds))


def _fitting(kind: str, wordings: Wordings, place: Place) -> list[str]:
    """The wordings of a kind whose fields the place has."""
    chosen = [text for name, texts in WORDINGS[kind].items() if wordings in (name, "all") for text in texts]
    return [text for text in chosen if {name for _, name, _, _ in string.Formatter().parse(text) if name} <= {*place}]


def _places(solved: SolvedProblem, rng: random.Random) -> list[Place]:
    """The place before each step."""
    places: list[Place] = []
    for index, step in enumerate(solved.steps):
        place = {
            "asked": solved.asked,
            "given": rng.choice(solved.givens),
            "question": last_sentence(solved.question),
            "detour": _detour(solved, rng),
        }
        if index:
            before = solved.steps[index - 1]
            fields = {"what": before.what, "value": before.value, "expression": before.expression}
            place |= fields | {"inverse": before.inverse, "next": step.what}
        else:
            place |= {"first": step.what}
        place = {name: text for name, text in place.items() if text}
        places.append(place | {"after" if index else "start": ""})
    return places


def _detour(solved: SolvedProblem, rng: random.Random) -> str:
    """A calculation with two numbers of the question, whose result no needed step and no question states; or ""."""
    stated = numbers(solved.question).union(*(numbers(step.text) for step in solved.steps))
    written = sorted({int(number) for number in re.findall(r"\d+", solved.question) if len(number) <= 3})
    if len(written) < 2:
        return ""
    for _ in range(10):
        low, high = sorted(rng.sample(written, 2))
        sign, value = rng.choice((("+", high + low), ("-", high - low), ("*", high * low)))
        if value not in stated:
            return f"{high} {sign} {low} = {value}"
    return ""


def last_sentence(text: str) -> str:
    """The last sentence of a text."""
    return re.split(r"(?<=[.?!])\s+", text.strip())[-1]
