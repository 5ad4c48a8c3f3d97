r"""What later steps use of a step: the guard that keeps it, whatever perplexity says.

Perplexity is a mean, and a good model guesses much of what a removed step said. But a chain from which the step "12 + 5
= 17" is gone, and which goes on with 17, teaches to guess. So a step stays if it is the first to state something that a
later step uses: a number, a name, a variable, or the result of a calculation that was not stated before.

A later step that derives the number again, as in "16 - 3 - 4 = 9", does not depend on the first one. A calculation with
the numbers of one that was stated before, in any order, is nothing new: 17 - 5 = 12 only checks 12 + 5 = 17.

The reading is by patterns, the same for all corpora, and needs no model. It errs towards keeping.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")
THOUSANDS: Final = re.compile(r"(?<=\d)(?:,|\{,\}|\\,)(?=\d{3}(?!\d))")
WORD: Final = re.compile(r"[A-Za-z]+")
NUMBER_WORDS: Final = {  # "one" is mostly no number
    word: str(number)
    for number, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=2
    )
}  # fmt: skip
NAME: Final = re.compile(r"(?<![.!?:]\s)(?<![\w\\])(?<!^)(?<!\n)[A-Z][a-z]+\b")  # not where a sentence begins
VARIABLE: Final = re.compile(r"(?<![A-Za-z\\'’])([a-zA-Z])(?![A-Za-z'’])\s*=")  # a letter that gets a value
RESULT: Final = re.compile(r"=\s*\\?\$?\s*[-−]?\s*(\d+(?:\.\d+)?)")
CLAUSE_END: Final = re.compile(r"[.,;:](?=\s)|\n|=|\\approx|≈")
OPERATOR: Final = re.compile(
    r"[-+*/×÷·^−]|\\(?:times|div|cdot|frac|dfrac|sqrt)|\b(?:times|plus|minus|divided)\b|(?<=\d) x (?=\d)"
)


@dataclass(frozen=True, slots=True)
class Calculation:
    """A stated calculation: its numbers with the result, sorted, and the result."""

    numbers: tuple[str, ...]
    result: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a step states.

    `stated`: numbers, names and variables. `calculations`: those with a number as result. `derived`: the results that
    the step does not mention before it calculates them.
    """

    stated: frozenset[str]
    calculations: frozenset[Calculation]
    derived: frozenset[str]


def is_used_later(question: str, steps: Sequence[str], index: int) -> bool:
    """Whether step `index` first states something that a later step uses."""
    own = read_facts(steps[index])
    before = [read_facts(text) for text in (question, *steps[:index])]
    calculated = {each.numbers for facts in before for each in facts.calculations}
    new = set(own.stated).difference(*(facts.stated for facts in before))
    new |= {each.result for each in own.calculations if each.numbers not in calculated}
    for text in steps[index + 1 :]:
        later = read_facts(text)
        if new & (later.stated - later.derived):
            return True
        new -= later.stated  # derived there, so what follows uses that
    return False


@lru_cache(maxsize=1 << 14)
def read_facts(text: str) -> Facts:
    """The facts of one step, or of a question."""
    text = THOUSANDS.sub("", text)
    numbers = numbers_of(text)
    names = {match[0] for match in NAME.finditer(text)} | {match[1] for match in VARIABLE.finditer(text)}
    calculations, derived = set(), set()
    for match in RESULT.finditer(text):
        clause = CLAUSE_END.split(text[: match.start()])[-1]
        operands = [_canonical(number) for number in NUMBER.findall(clause)]
        if not operands or not OPERATOR.search(clause):
            continue
        result = _canonical(match[1])
        calculations.add(Calculation(tuple(sorted([*operands, result])), result))
        if result not in {_canonical(number) for number in NUMBER.findall(text[: match.start()])}:
            derived.add(result)
    return Facts(frozenset(numbers | names), frozenset(calculations), frozenset(derived))


def numbers_of(text: str) -> set[str]:
    """The numbers of a text, as digits or as words up to twelve, each in one form."""
    text = THOUSANDS.sub("", text)
    numbers = {_canonical(match[0]) for match in NUMBER.finditer(text)}
    return numbers | {NUMBER_WORDS[word] for word in map(str.lower, WORD.findall(text)) if word in NUMBER_WORDS}


def _canonical(number: str) -> str:
    """One form of equal numbers: 07.50 is 7.5."""
    whole, _, fraction = number.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")
