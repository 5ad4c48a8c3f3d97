"""Arithmetic in words: sums, products and averages of listed numbers, percents and simple fractions of numbers."""

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from algorithms.step_checks.claims import Claim
from algorithms.step_checks.context import is_denied

NUMBER: Final = r"(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:\.\d{1,15})?"
SIGN: Final = r"(?:\\?\$)?"  # of a formula or of money
GIVEN: Final = rf"{SIGN}{SIGN}({NUMBER})\$?(?: [a-z]+)?"
RESULT: Final = rf"(?:is|equals|=) {SIGN}{SIGN}(?:\\boxed\{{)?({NUMBER})"
END: Final = r"(?![\d^!/%\\]|\.\d|,\d|\s*(?:\\(?:cdot|times|frac|sqrt|%)|[-+*^/=x×]))"
ITEM: Final = r"\$?\d{1,15}(?:\.\d{1,15})?\$?"
LIST: Final = re.compile(
    rf"(sum|product|average|mean) of ({ITEM}(?:, {ITEM}){{0,12}},? and {ITEM}) {RESULT}{END}", re.IGNORECASE
)
PERCENT: Final = re.compile(rf"(?<![\d.,])\$?({NUMBER})\s?(?:\\?%|percent)\$? of {GIVEN} {RESULT}{END}")
PARTS: Final = {
    "half": Fraction(1, 2), "one-half": Fraction(1, 2), "one-third": Fraction(1, 3), "a third": Fraction(1, 3),
    "one-fourth": Fraction(1, 4), "a quarter": Fraction(1, 4), "twice": Fraction(2), "double": Fraction(2),
}  # fmt: skip
PART: Final = re.compile(rf"(?<![\w-])({'|'.join(PARTS)}) (?:of )?{GIVEN} {RESULT}{END}", re.IGNORECASE)


def word_claims(text: str) -> Iterator[Claim]:
    """The claims about sums, products, averages, percents and fractions of numbers."""
    if " of " in text:
        for match in LIST.finditer(text):
            numbers = [Fraction(each) for each in re.findall(r"\d+(?:\.\d+)?", match[2])]
            yield _claim(text, match, _combined(match[1].lower(), numbers), match[3])
        for match in PERCENT.finditer(text):
            yield _claim(text, match, _value(match[1]) * _value(match[2]) / 100, match[3])
    for match in PART.finditer(text):
        yield _claim(text, match, PARTS[match[1].lower()] * _value(match[2]), match[3])


def _claim(text: str, match: re.Match[str], result: Fraction, stated: str) -> Claim:
    distance = abs(result - _value(stated))
    digits = len(stated.partition(".")[2])
    verdict: bool | None = distance <= (Fraction(1, 10**digits) if digits else 0)
    if not verdict and (distance < 1 or is_denied(text, match.start(), match.end())):
        verdict = None  # rounded, or denied
    return Claim(match.start(), match.end(), "words", verdict)


def _value(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _combined(what: str, numbers: list[Fraction]) -> Fraction:
    if what == "product":
        return math.prod(numbers, start=Fraction(1))
    total = sum(numbers, start=Fraction(0))
    return total if what == "sum" else total / len(numbers)
