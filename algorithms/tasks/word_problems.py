"""Arithmetic word problems: additions, subtractions, multiplications and divisions of a number of things.

Each needed step states one calculation, on the result of the one before.
"""

import random
from dataclasses import dataclass
from typing import Final

from algorithms.tasks.problem import Difficulty, NeededStep, SolvedProblem, answer_statement


@dataclass(frozen=True, slots=True)
class _Event:
    """One change of the number of things: its sentence in the question, its step in the solution, its result."""

    question_sentence: str
    step: NeededStep
    result: int


NUM_OPERATIONS: Final = {"easy": (2, 3), "medium": (2, 5), "hard": (5, 9)}
NAMES: Final = (
    "Amara",
    "Ben",
    "Chen",
    "Dora",
    "Emil",
    "Farah",
    "Goran",
    "Hana",
    "Ivo",
    "Jun",
    "Kira",
    "Lars",
)
THINGS: Final = ("marbles", "stamps", "apples", "pencils", "shells", "cards", "coins", "buttons", "tickets")
PLACES: Final = (
    "at the market",
    "in a drawer",
    "under the stairs",
    "from a neighbour",
    "at school",
    "in the attic",
)


def generate(rng: random.Random, difficulty: Difficulty) -> SolvedProblem:
    """A problem of 2 or 3 calculations if easy, of 2 to 5 if medium, of 5 to 9 if hard."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    start = rng.randint(4, 60)
    count = start
    events: list[_Event] = []
    for _ in range(rng.randint(*NUM_OPERATIONS[difficulty])):
        event = rng.choice([_add, _subtract, _multiply, _divide])(rng, name, thing, count)
        events.append(event)
        count = event.result
    question = " ".join(
        [
            f"{name} has {start} {thing}.",
            *(event.question_sentence for event in events),
            f"How many {thing} does {name} have now?",
        ]
    )
    return SolvedProblem(
        question,
        f"the number of {thing} that {name} has now",
        (f"{name} has {start} {thing} at the start",),
        (*(event.step for event in events), answer_statement(str(count))),
        str(count),
    )


def _add(rng: random.Random, name: str, thing: str, count: int) -> _Event:
    more, place = rng.randint(2, 40), rng.choice(PLACES)
    result = count + more
    calculation = f"{count} + {more} = {result}"
    text = rng.choice(
        (
            f"With the {more} found, {name} has {calculation} {thing}.",
            f"Adding the {more} new {thing} gives {calculation} {thing}.",
            f"{name} finds {more} more, so there are {calculation} {thing}.",
        )
    )
    what = f"the number of {thing} with those found {place}"
    step = NeededStep(text, what, f"{result}", f"{count} + {more}", f"{result} - {more} = {count}")
    return _Event(f"Then {name} finds {more} more {thing} {place}.", step, result)


def _subtract(rng: random.Random, name: str, thing: str, count: int) -> _Event:
    if count < 5:
        return _add(rng, name, thing, count)
    fewer, friend = rng.randint(2, count - 2), rng.choice([other for other in NAMES if other != name])
    result = count - fewer
    calculation = f"{count} - {fewer} = {result}"
    text = rng.choice(
        (
            f"After giving away {fewer}, {name} has {calculation} {thing}.",
            f"Without the {fewer} for {friend}, there are {calculation} {thing} left.",
            f"{friend} gets {fewer}, which leaves {name} {calculation} {thing}.",
        )
    )
    what = f"the number of {thing} after the gift to {friend}"
    step = NeededStep(text, what, f"{result}", f"{count} - {fewer}", f"{result} + {fewer} = {count}")
    return _Event(f"Then {name} gives {fewer} {thing} to {friend}.", step, result)


def _multiply(rng: random.Random, name: str, thing: str, count: int) -> _Event:
    factor = rng.randint(2, 4)
    if count * factor > 2000:
        return _subtract(rng, name, thing, count)
    word = {2: "twice", 3: "three times", 4: "four times"}[factor]
    result = count * factor
    calculation = f"{count} * {factor} = {result}"
    text = rng.choice(
        (
            f"{word.capitalize()} as many is {calculation} {thing}.",
            f"A month later there are {word} as many, which is {calculation} {thing}.",
            f"The number grows to {calculation} {thing}.",
        )
    )
    what = f"the number of {thing} a month later"
    step = NeededStep(text, what, f"{result}", f"{count} * {factor}", f"{result} / {factor} = {count}")
    return _Event(f"A month later {name} has {word} as many {thing} as that.", step, result)


def _divide(rng: random.Random, name: str, thing: str, count: int) -> _Event:
    divisors = [divisor for divisor in (2, 3, 4, 5) if count % divisor == 0 and count > divisor]
    if not divisors:
        return _add(rng, name, thing, count)
    divisor = rng.choice(divisors)
    result = count // divisor
    calculation = f"{count} / {divisor} = {result}"
    text = rng.choice(
        (
            f"One of {divisor} equal shares is {calculation} {thing}.",
            f"Shared among {divisor} people, that makes {calculation} {thing} each.",
            f"{name} keeps one share, which is {calculation} {thing}.",
        )
    )
    what = f"the number of {thing} in one share"
    step = NeededStep(text, what, f"{result}", f"{count} / {divisor}", f"{result} * {divisor} = {count}")
    sentence = f"Then {name} shares the {thing} equally among {divisor} people and keeps one share."
    return _Event(sentence, step, result)
