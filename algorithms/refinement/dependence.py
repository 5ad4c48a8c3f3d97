r"""What later steps use of a step: the guard that keeps it, whatever perplexity says.

Perplexity is a mean, and a good model guesses much of what a removed step said. But a chain from which the step "12 + 5
= 17" is gone, and which goes on with 17, teaches to guess. So a step stays if it is the first to state something that a
later step uses: a number, a name, a symbol, or the result of an equation that was not stated before.

A later step that derives the number by itself, as in "16 - 3 - 4 = 9", does not depend on the first one. An equation
between the numbers of one that was stated before is nothing new: 17 - 5 = 12 only checks 12 + 5 = 17, and a step that
calculates 12 + 5 = 17 again derives nothing.

The reading is by patterns, the same for all corpora, and needs no model. It errs towards keeping.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")
THOUSANDS: Final = re.compile(r"(?<=\d)(?:,|\{,\}|\\,)(?=\d{3}(?!\d))")
NUMBER_WORDS: Final = {  # "one" is mostly no number
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
    "eleven": "11", "twelve": "12",
}  # fmt: skip
NAME: Final = re.compile(r"(?<![.!?:]\s)(?<![\w\\])(?<!^)(?<!\n)[A-Z][a-z]+\b")  # not where a sentence begins
TOKEN: Final = re.compile(
    r"""(?P<number>\d+(?:\.\d+)?)
      |(?P<operator>[-+*/×÷·^−]|\\(?:times|div|cdot|d?frac|sqrt)(?![a-zA-Z])|(?<=\d)\s+x\s+(?=[\d(])|√)
      |(?P<equals>=)
      |(?P<bracket>[][(){}$€£%]|\\[][(){}$%]|\\(?:left|right)\b)
      |(?P<symbol>(?<![A-Za-z\\'’])(?![aAI]\b)[A-Za-z]['′]?(?![A-Za-z'’]))
      |(?P<word>\\?[^\W\d_]+(?:['’][a-z]+)?)
      |(?P<stop>[.,;:!?](?=\s|$)|\n|\\\\|&)""",
    re.VERBOSE,
)
UNIT_WORDS: Final = 3  # words between a number and the operator after it, as in 16 eggs - 3 eggs
IN_EXPRESSIONS: Final = frozenset({"number", "operator", "bracket", "symbol"})


@dataclass(frozen=True, slots=True)
class Equation:
    """A stated equation: its numbers and symbols, sorted, and the numbers that it gives."""

    parts: tuple[str, ...]
    results: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a step states.

    `stated`: numbers, names and symbols. `derived`: the results that the step does not mention before it calculates
    them, each with the equations that give it.
    """

    stated: frozenset[str]
    equations: tuple[Equation, ...]
    derived: frozenset[tuple[str, Equation]]


def is_used_later(question: str, steps: Sequence[str], index: int) -> bool:
    """Whether step `index` first states something that a later step uses."""
    own = read_facts(steps[index])
    before = [read_facts(text) for text in (question, *steps[:index])]
    known = {equation.parts for facts in before for equation in facts.equations}
    new = set(own.stated).difference(*(facts.stated for facts in before))
    for equation in own.equations:
        if equation.parts not in known:
            new |= equation.results
    repeated = {equation.parts for equation in own.equations}
    for text in steps[index + 1 :]:
        later = read_facts(text)
        derived = {number for number, equation in later.derived if equation.parts not in repeated}
        if new & (later.stated - derived):
            return True
        new -= derived  # what follows uses that
    return False


@lru_cache(maxsize=1 << 14)
def read_facts(text: str) -> Facts:
    """The facts of one step, or of a question."""
    text = THOUSANDS.sub("", text)
    tokens = [(match.lastgroup or "", match[0], match.start()) for match in TOKEN.finditer(text)]
    symbols = {value for kind, value, _ in tokens if kind == "symbol"}
    equations: list[Equation] = []
    derived: set[tuple[str, Equation]] = set()
    for place, kind, start in _without_units(tokens):
        if kind != "equals":
            continue
        equation = _equation(*_sides(tokens, place))
        if equation is not None:
            equations.append(equation)
            mentioned = numbers_of(text[:start]) - set(_side_numbers(tokens, place))
            derived |= {(number, equation) for number in equation.results - mentioned}
    stated = numbers_of(text) | symbols | {match[0] for match in NAME.finditer(text)}
    return Facts(frozenset(stated), tuple(equations), frozenset(derived))
