"""Generated multi-step arithmetic word problems whose solutions say some things twice.

Each problem is a walk of additions, subtractions, multiplications and divisions over whole numbers. Its
solution states one calculation a step; in between stand steps that carry nothing the rest needs: the
question again, a remark, a number that was just computed, a plan. `redundant` says which, so that a
refinement can be judged.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A problem, its solution step by step (the last one states the answer), and the needless steps."""

    question: str
    steps: tuple[str, ...]
    answer: str
    redundant: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Event:
    """One change of the number of things: how the question tells it and how the solution computes it."""

    told: str
    computed: str
    result: int


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


def generate(seed: int, index: int, num_operations: tuple[int, int] = (2, 5)) -> WordProblem:
    """Problem number `index` of the corpus `seed`; the same two numbers always give the same problem."""
    if not 1 <= num_operations[0] <= num_operations[1]:
        raise ValueError(f"num_operations must be 1 <= least <= most, got {num_operations}")
    chance = random.Random(f"{seed}:{index}")
    name, thing = chance.choice(NAMES), chance.choice(THINGS)
    start = chance.randint(4, 60)
    count = start
    events: list[_Event] = []
    for _ in range(chance.randint(*num_operations)):
        event = _event(chance, name, thing, count)
        events.append(event)
        count = event.result
    question = " ".join(
        [
            f"{name} has {start} {thing}.",
            *(event.told for event in events),
            f"How many {thing} does {name} have now?",
        ]
    )
    steps, redundant = _solution(chance, name, thing, start, events)
    return WordProblem(question, tuple(steps), str(count), tuple(redundant))


def _event(chance: random.Random, name: str, thing: str, count: int) -> _Event:
    return chance.choice([_find, _lose, _multiply, _divide])(chance, name, thing, count)


def _find(chance: random.Random, name: str, thing: str, count: int) -> _Event:
    more, place = chance.randint(2, 40), chance.choice(PLACES)
    return _Event(
        f"Then {name} finds {more} more {thing} {place}.",
        f"With the {more} found, {name} has {count} + {more} = {count + more} {thing}.",
        count + more,
    )


def _lose(chance: random.Random, name: str, thing: str, count: int) -> _Event:
    if count < 5:
        return _find(chance, name, thing, count)
    fewer, friend = chance.randint(2, count - 2), chance.choice([other for other in NAMES if other != name])
    return _Event(
        f"Then {name} gives {fewer} {thing} to {friend}.",
        f"After giving away {fewer}, {name} has {count} - {fewer} = {count - fewer} {thing}.",
        count - fewer,
    )


def _multiply(chance: random.Random, name: str, thing: str, count: int) -> _Event:
    factor = chance.randint(2, 4)
    if count * factor > 2000:
        return _lose(chance, name, thing, count)
    word = {2: "twice", 3: "three times", 4: "four times"}[factor]
    return _Event(
        f"A month later {name} has {word} as many {thing} as that.",
        f"{word.capitalize()} as many is {count} * {factor} = {count * factor} {thing}.",
        count * factor,
    )


def _divide(chance: random.Random, name: str, thing: str, count: int) -> _Event:
    divisors = [divisor for divisor in (2, 3, 4, 5) if count % divisor == 0 and count > divisor]
    if not divisors:
        return _find(chance, name, thing, count)
    divisor = chance.choice(divisors)
    return _Event(
        f"Then {name} shares the {thing} equally among {divisor} people and keeps one share.",
        f"One of {divisor} equal shares is {count} / {divisor} = {count // divisor} {thing}.",
        count // divisor,
    )


def _solution(
    chance: random.Random, name: str, thing: str, start: int, events: list[_Event]
) -> tuple[list[str], list[int]]:
    steps: list[str] = []
    redundant: list[int] = []

    def pad(make: Callable[[], str], probability: float) -> None:
        if chance.random() < probability:
            redundant.append(len(steps))
            steps.append(make())

    pad(lambda: f"We need to find how many {thing} {name} has now.", 0.4)
    pad(lambda: f"At the start {name} has {start} {thing}.", 0.3)
    for event in events:
        pad(
            lambda: chance.choice(("Let us go on with the next part.", "Now we look at what happens next.")),
            0.2,
        )
        steps.append(event.computed)
        result = event.result
        pad(lambda result=result: f"So now there are {result} {thing}, as we just computed.", 0.3)  # type: ignore[misc]
    pad(lambda: "This is the last calculation, so we are done with the computing.", 0.25)
    steps.append(f"The answer is {events[-1].result}.")
    return steps, redundant
