r"""What later steps use of a step: the guard that keeps it, whatever perplexity says.

Perplexity is a mean, and a good model guesses much of what a removed step said. But a chain from which the step "12 + 5
= 17" is gone, and which goes on with 17, teaches to guess. So a step stays if it is the first to state something that a
later step uses: a number, a name, a symbol, or the result of an equation that was not stated before.

A later step that calculates a number by itself does not depend on one that only announced it. An equation between the
numbers of one that was stated before is nothing new: 17 - 5 = 12 only checks 12 + 5 = 17, and a step that calculates
12 + 5 = 17 again states nothing; unless it says of what, in words of the question that the first one lacks.
An equation with a symbol is used by each later step that goes on with the symbol.

The reading is by patterns, the same for all corpora, and needs no model. It errs towards keeping.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

NUMBER: Final = re.compile(r"\d+(?:\.\d+)?|(?<![\d.])\.\d+")
THOUSANDS: Final = re.compile(r"(?<=\d)(?:,|\{,\}|\\,)(?=\d{3}(?!\d))")
NUMBER_WORDS: Final = {  # "one" is mostly no number
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
}  # fmt: skip
CAPITALISED: Final = re.compile(r"(?<![\w\\])[A-Z][a-z]+\b")
NAME: Final = re.compile(rf"(?<![.!?:]\s)(?<!^)(?<!\n){CAPITALISED.pattern}")  # not where a sentence begins
TOKEN: Final = re.compile(
    r"""(?P<number>\d+(?:\.\d+)?|(?<![\d.])\.\d+)
      |(?P<unit>/\s*[A-Za-z]{2,})
      |(?P<operator>[-+*/×÷·^−]|\\(?:times|div|cdot|d?frac|sqrt)(?![a-zA-Z])
          |(?<=\s)x\s+(?=[$£€]?[\d(])|√
          |\b(?:times|plus|minus|(?:divided|multiplied)\ by)\b|(?<=[\d%])\s+of\b(?=\s+[$£€]?\d))
      |(?P<equals>=|\bequals\b)
      |(?P<bracket>[][(){}$€£%]|\\[][(){}$%]|\\(?:left|right)\b)
      |(?P<symbol>(?<![A-Za-z\\'’])(?![aAI]\b)[A-Za-z]['′]?(?![A-Za-z'’]))
      |(?P<word>\\?[^\W\d_]+(?:['’][a-z]+)?)
      |(?P<stop>[.,;:!?](?=\s|$)|\n|\\\\|&)""",
    re.VERBOSE,
)
ONE_SIGN: Final = {
    **dict.fromkeys(("×", "·", "x", "of", "times", "multiplied by", r"\times", r"\cdot"), "*"),
    **dict.fromkeys(("÷", "divided by", r"\div"), "/"),
    **dict.fromkeys(("−", "minus"), "-"),
    "plus": "+",
}
UNIT_WORDS: Final = 3  # words between a number and the operator after it, as in 16 eggs - 3 eggs
NO_UNITS: Final = re.compile(
    r"is|are|was|were|be|ha[sd]|have|g[ia]ves?|makes?|equals|and|or|so|because|since|then|when|where|which|that|to|by"
    r"|at|in|from|for|with|as|the|an?|we|get|now",
    re.IGNORECASE,
)
FUNCTION_WORDS: Final = frozenset(
    {"the", "an", "and", "or", "of", "to", "in", "on", "at", "by", "for", "with", "from", "that", "this", "these", "is"}
    | {"are", "was", "were", "be", "has", "have", "had", "it", "its", "he", "she", "they", "his", "her", "their", "we"}
    | {"all", "each", "per", "how", "many", "much", "what", "which", "if", "as", "so", "than", "then", "there", "do"}
    | {"does", "did", "will", "would", "can", "not", "no", "now", "also", "who", "when", "where", "find", "value"}
)
IN_EXPRESSIONS: Final = frozenset({"number", "operator", "bracket", "symbol"})


@dataclass(frozen=True, slots=True)
class Equation:
    """A stated equation: its numbers and symbols, sorted, and what it gives: the numbers at its right, its symbols."""

    parts: tuple[str, ...]
    gives: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a step states.

    `stated`: numbers, names and symbols. `mentioned`: these, and words that may be names. `expressions`: sums, products
    and the like, as in x + 30 and 4/52. `derived`: the results of calculations that the step does not mention before.
    `words`: all words, in lower case.
    """

    stated: frozenset[str]
    mentioned: frozenset[str]
    expressions: frozenset[str]
    equations: tuple[Equation, ...]
    derived: frozenset[str]
    words: frozenset[str]


def is_used_later(question: str, steps: Sequence[str], index: int) -> bool:
    """Whether step `index` first states something that a later step uses."""
    own, asked = read_facts(steps[index]), read_facts(question)
    before = [asked, *map(read_facts, steps[:index])]
    new = set(own.stated).difference(*(facts.mentioned for facts in before))
    for equation in own.equations:
        subject = own.words & asked.words - FUNCTION_WORDS
        if not any(_states(facts, equation, subject) for facts in before):
            new |= equation.gives
    formed = {
        each for each in own.expressions if not any(each in known for facts in before for known in facts.expressions)
    }
    calculated = {number for equation in own.equations for number in equation.gives}
    for text in steps[index + 1 :]:
        later = read_facts(text)
        # A number that both calculate stands for two things, or for one that is calculated again to be used.
        derived = later.derived - calculated
        if new & (later.mentioned - derived):
            return True
        if any(each in used for each in formed for used in later.expressions):
            return True
        new -= derived  # what follows uses that
    return False


def _states(facts: Facts, equation: Equation, subject: frozenset[str]) -> bool:
    """Whether a step, or the question, states an equation of the same parts, and about the same subject."""
    return subject <= facts.words and any(each.parts == equation.parts for each in facts.equations)


@lru_cache(maxsize=1 << 14)
def read_facts(text: str) -> Facts:
    """The facts of one step, or of a question."""
    text = THOUSANDS.sub("", text)
    tokens = _tokens(text)
    first_places = _first_places(text)
    equations: list[Equation] = []
    derived: set[str] = set()
    sides = [list(group) for _, group in itertools.groupby(tokens, lambda token: token.kind in IN_EXPRESSIONS)]
    for left, sign, right in zip(sides, sides[1:], sides[2:], strict=False):
        equation = _equation(left, right) if [token.kind for token in sign] == ["equals"] else None
        if equation is None:
            continue
        equations.append(equation)
        results = _numbers(right)
        if len(results) == 1 and any(token.kind == "operator" for token in left):
            derived |= {number for number in results if first_places[number] > left[-1].start}
    symbols = {token.text for token in tokens if token.kind == "symbol"}
    names = {match[0] for match in NAME.finditer(text)}
    words = frozenset(re.findall(r"[^\W\d_]{2,}", text.lower()))
    stated = frozenset(first_places.keys() | symbols | names)
    mentioned = stated.union(CAPITALISED.findall(text))
    return Facts(stated, mentioned, frozenset(_expressions(sides)), tuple(equations), frozenset(derived), words)


def numbers_of(text: str) -> set[str]:
    """The numbers of a text, as digits or as words up to twelve, each in one form."""
    return set(_first_places(THOUSANDS.sub("", text)))


def _first_places(text: str) -> dict[str, int]:
    """Where each number of a text stands first."""
    found = [(match.start(), _canonical(match[0])) for match in NUMBER.finditer(text)]
    words = ((match.start(), NUMBER_WORDS.get(match[0].lower())) for match in re.finditer(r"[A-Za-z]+", text))
    found += [(start, number) for start, number in words if number]
    return {number: start for start, number in sorted(found, reverse=True)}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, operator, equals, bracket, symbol, word or stop
    text: str
    start: int

    @property
    def can_be_unit(self) -> bool:
        return self.kind == "word" and not NO_UNITS.fullmatch(self.text)


def _tokens(text: str) -> list[_Token]:
    """The tokens of a text, without the words between a number and the operator or sign after it."""
    matches = (match for match in TOKEN.finditer(text) if match.lastgroup != "unit")  # miles/hour
    found = [_Token(match.lastgroup or "", match[0], match.start()) for match in matches]
    kept: list[_Token] = []
    place = 0
    while place < len(found):
        kept.append(found[place])
        place += 1
        if kept[-1].kind == "number":
            after = place
            while after < len(found) and found[after].can_be_unit and after - place < UNIT_WORDS:
                after += 1
            if after < len(found) and found[after].kind in ("operator", "equals"):
                place = after
    return kept


def _expressions(runs: Iterable[Sequence[_Token]]) -> Iterator[str]:
    """The expressions with an operator, without brackets; one that holds another contains its text."""
    for each in runs:
        run = [token for token in each if token.kind != "bracket" and token.kind in IN_EXPRESSIONS]
        if len(run) > 2 and any(token.kind == "operator" for token in run):
            texts = [token.text.strip() for token in run]
            yield f" {' '.join(ONE_SIGN.get(text, text) for text in texts)} "


def _equation(left: Sequence[_Token], right: Sequence[_Token]) -> Equation | None:
    """The equation of two sides; None if one is empty."""
    if not all(any(token.kind in ("number", "symbol") for token in side) for side in (left, right)):
        return None
    symbols = [token.text for token in (*left, *right) if token.kind == "symbol"]
    numbers = _numbers(right)
    # 12 + 5 = 17 gives 17. A division read backwards, 808 = 6 * 134 + 4, gives what stands at the right as well.
    return Equation(tuple(sorted([*_numbers(left), *numbers, *symbols])), frozenset([*numbers, *symbols]))


def _numbers(side: Sequence[_Token]) -> list[str]:
    return [_canonical(token.text) for token in side if token.kind == "number"]


def _canonical(number: str) -> str:
    """One form of equal numbers: 07.50 is 7.5."""
    whole, _, fraction = number.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")
