"""The minutes between two clock times: 24-hour forms, minutes after midnight, their difference.

All problems of a difficulty have the same steps in the same order. easy: both times before noon or both after it;
medium: morning to afternoon; hard: over midnight, with one more step.
"""

import random
from dataclasses import dataclass
from typing import Final

from algorithms.tasks.problem import Difficulty, NeededStep, SolvedProblem, answer_statement

NOON: Final = 720
DAY: Final = 1440


@dataclass(frozen=True, slots=True)
class _Story:
    """What lies between the two times. `begin` and `end` name its two moments."""

    told: str
    asked: str
    length: str
    begin: str
    end: str


STORIES: Final = (
    _Story(
        "A train leaves at {begin} and arrives at {end}{day}.",
        "How many minutes does the journey take?",
        "the length of the journey in minutes",
        "departure time",
        "arrival time",
    ),
    _Story(
        "A nurse starts work at {begin} and finishes at {end}{day}.",
        "How many minutes long is the shift?",
        "the length of the shift in minutes",
        "starting time",
        "finishing time",
    ),
    _Story(
        "A power cut begins at {begin} and ends at {end}{day}.",
        "For how many minutes is there no power?",
        "the length of the power cut in minutes",
        "start of the power cut",
        "end of the power cut",
    ),
    _Story(
        "A baker puts dough in a cold room at {begin} and takes it out at {end}{day}.",
        "How many minutes does the dough rest?",
        "the resting time in minutes",
        "start of the rest",
        "end of the rest",
    ),
)
MORNINGS: Final = (
    "The {name}, {given}, is {hour}:{minute:02} on the 24-hour clock.",
    "On the 24-hour clock, the {name}, {given}, is {hour}:{minute:02}.",
)
AFTERNOONS: Final = (
    "The {name}, {given}, is {hour}:{minute:02} on the 24-hour clock, because {calculation}.",
    "On the 24-hour clock, the {name}, {given}, is {hour}:{minute:02}, since {calculation}.",
)
MINUTES: Final = (
    "The {name} is {calculation} minutes after midnight.",
    "In minutes after midnight, the {name} is {calculation}.",
    "Counted from midnight, the {name} comes after {calculation} minutes.",
)
NEXT_DAYS: Final = (
    "The {name} is on the next day, so we add a day of {day} minutes: {calculation}.",
    "Because midnight lies in between, the {name} moves by {day} minutes: {calculation}.",
)
DIFFERENCES: Final = (
    "The difference is {0} minutes.",
    "Subtracting the two, we get {0} minutes.",
    "Between the two times lie {0} minutes.",
)


def generate(rng: random.Random, difficulty: Difficulty) -> SolvedProblem:
    """Two clock times, and what happens between them."""
    story = rng.choice(STORIES)
    begin, end = _times(rng, difficulty)
    overnight = difficulty == "hard"
    day = " the next day" if overnight else rng.choice(("", " on the same day"))
    steps = [*_clock_steps(rng, (begin, end), story), *_minute_steps(rng, (begin, end), story)]
    if overnight:
        expression = f"{end} + {DAY}"
        text = rng.choice(NEXT_DAYS).format(name=story.end, day=DAY, calculation=f"{expression} = {end + DAY}")
        what = f"the {story.end} in minutes after the first midnight"
        steps.append(NeededStep(text, what, f"{end + DAY}", expression, f"{end + DAY} - {DAY} = {end}"))
        end += DAY
    answer = f"{end - begin}"
    expression = f"{end} - {begin}"
    steps.append(
        NeededStep(
            rng.choice(DIFFERENCES).format(f"{expression} = {answer}"),
            story.length,
            answer,
            expression,
            f"{begin} + {answer} = {end}",
        )
    )
    given = (_spoken(begin), _spoken(end % DAY))
    return SolvedProblem(
        f"{story.told.format(begin=given[0], end=given[1], day=day)} {story.asked}",
        story.length,
        (f"the {story.begin} is {given[0]}", f"the {story.end} is {given[1]}{day}"),
        (*steps, answer_statement(answer)),
        answer,
    )


def _times(rng: random.Random, difficulty: Difficulty) -> tuple[int, int]:
    """Minutes after midnight of the two times."""
    if difficulty == "easy":
        half = rng.choice((0, NOON))
        begin = half + rng.randrange(60, 480)
        return begin, rng.randrange(begin + 45, half + NOON)
    if difficulty == "medium":
        return rng.randrange(300, NOON), rng.randrange(NOON, DAY)
    return rng.randrange(NOON + 300, DAY), rng.randrange(5, 600)


def _clock_steps(rng: random.Random, times: tuple[int, int], story: _Story) -> list[NeededStep]:
    afternoon, morning = rng.choice(AFTERNOONS), rng.choice(MORNINGS)
    steps = []
    for minutes, name in zip(times, (story.begin, story.end), strict=True):
        hour, minute = divmod(minutes, 60)
        spoken = hour % 12 or 12
        what, value = f"the {name} on the 24-hour clock", f"{hour}:{minute:02}"
        expression = "" if spoken == hour else f"{spoken} {'+' if hour > 12 else '-'} 12"
        text = (afternoon if expression else morning).format(
            name=name, given=_spoken(minutes), hour=hour, minute=minute, calculation=f"{expression} = {hour}"
        )
        inverse = f"{hour} {'-' if hour > 12 else '+'} 12 = {spoken}" if expression else ""
        steps.append(NeededStep(text, what, value, "", inverse))
    return steps


def _minute_steps(rng: random.Random, times: tuple[int, int], story: _Story) -> list[NeededStep]:
    wording = rng.choice(MINUTES)
    steps = []
    for minutes, name in zip(times, (story.begin, story.end), strict=True):
        hour, minute = divmod(minutes, 60)
        expression = f"{hour} * 60 + {minute}"
        text = wording.format(name=name, calculation=f"{expression} = {minutes}")
        steps.append(NeededStep(text, f"the {name} in minutes after midnight", f"{minutes}", expression))
    return steps


def _spoken(minutes: int) -> str:
    hour, minute = divmod(minutes, 60)
    return f"{hour % 12 or 12}:{minute:02} {'AM' if hour < 12 else 'PM'}"
