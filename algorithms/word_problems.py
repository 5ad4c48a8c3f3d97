"""Generate multi-step arithmetic word problems whose solutions contain redundant steps.

Each problem is a sequence of additions, subtractions, multiplications and divisions of whole numbers. Each needed
step of the solution states one calculation. The redundant steps between them restate the question, a given number
or a result, or comment on the solution. `redundant` lists their indices, so that a refinement can be evaluated.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A problem, the steps of its solution (the last one states the answer), and the redundant steps' indices."""

    question: str
    steps: tuple[str, ...]
    answer: str
    redundant: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Event:
    """One change of the number of things: its sentence in the question, its step in the solution, its result."""

    question_sentence: str
    solution_step: str
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
    """Problem `index` of the corpus `seed`. The same seed and index always give the same problem."""
    if not 1 <= num_operations[0] <= num_operations[1]:
        raise ValueError(f"num_operations must satisfy 1 <= least <= most, got {num_operations}")
    rng = random.Random(f"{seed}:{index}")
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    start = rng.randint(4, 60)
    count = start
    events: list[_Event] = []
    for _ in range(rng.randint(*num_operations)):
        event = _random_event(rng, name, thing, count)
        events.append(event)
        count = event.result
    question = " ".join(
        [
            f"{name} has {start} {thing}.",
            *(event.question_sentence for event in events),
            f"How many {thing} does {name} have now?",
        ]
    )
    steps, redundant = _solution(rng, name, thing, start, events)
    return WordProblem(question, tuple(steps), str(count), tuple(redundant))


def _random_event(rng: random.Random, name: str, thing: str, count: int) -> _Event:
    return rng.choice([_add, _subtract, _multiply, _divide])(rng, name, thing, count)


def _add(rng: random.Random, name: str, thing: str, count: int) -> _Event:
    more, place = rng.randint(2, 40), rng.choice(PLACES)
    return _Event(
        f"Then {name} finds {more} more {thing} {place}.",
        f"With the {more} found, {name} has {count} + {more} = {count + more} {thing}.",
        count + more,
    )


def _subtract(rng: random.Random, name: str, thing: str, count: int) -> _Event:
    if count < 5:
        return _add(rng, name, thing, count)
    fewer, friend = rng.randint(2, count - 2), rng.choice([other for other in NAMES if other != name])
    return _Event(
        f"Then {name} gives {fewer} {thing} to {friend}.",
        f"After giving away {fewer}, {name} has {count} - {fewer} = {count - fewer} {thing}.",
        count - fewer,
    )


def _multiply(rng: random.Random, name: str, thing: str, count: int) -> _Event:
    factor = rng.randint(2, 4)
    if count * factor > 2000:
        return _subtract(rng, name, thing, count)
    word = {2: "twice", 3: "three times", 4: "four times"}[factor]
    return _Event(
        f"A month later {name} has {word} as many {thing} as that.",
        f"{word.capitalize()} as many is {count} * {factor} = {count * factor} {thing}.",
        count * factor,
    )


def _divide(rng: random.Random, name: str, thing: str, count: int) -> _Event:
    divisors = [divisor for divisor in (2, 3, 4, 5) if count % divisor == 0 and count > divisor]
    if not divisors:
        return _add(rng, name, thing, count)
    divisor = rng.choice(divisors)
    return _Event(
        f"Then {name} shares the {thing} equally among {divisor} people and keeps one share.",
        f"One of {divisor} equal shares is {count} / {divisor} = {count // divisor} {thing}.",
        count // divisor,
    )


def _solution(
    rng: random.Random, name: str, thing: str, start: int, events: list[_Event]
) -> tuple[list[str], list[int]]:
    steps: list[str] = []
    redundant: list[int] = []

    def add_redundant(make: Callable[[], str], probability: float) -> None:
        if rng.random() < probability:
            redundant.append(len(steps))
            steps.append(make())

    add_redundant(lambda: f"We need to find how many {thing} {name} has now.", 0.4)
    add_redundant(lambda: f"At the start {name} has {start} {thing}.", 0.3)
    for event in events:
        add_redundant(
            lambda: rng.choice(("Let us go on with the next part.", "Now we look at what happens next.")),
            0.2,
        )
        steps.append(event.solution_step)
        result = event.result
        add_redundant(lambda result=result: f"So now there are {result} {thing}, as we just computed.", 0.3)  # type: ignore[misc]
    add_redundant(lambda: "This is the last calculation, so we are done with the computing.", 0.25)
    steps.append(f"The answer is {events[-1].result}.")
    return steps, redundant
