r"""Numbers in words and decimals that repeat, as clean LaTeX: "twenty-five", "two and a half", 0.333..., 0.\dot3."""

import re
from fractions import Fraction
from typing import Final

SMALL: Final = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
LARGE: Final = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
PARTS: Final = {
    word: Fraction(1, number)
    for number, words in {
        2: "half halves", 3: "third thirds", 4: "quarter quarters fourth fourths", 5: "fifth fifths", 6: "sixth sixths",
        7: "seventh sevenths", 8: "eighth eighths", 9: "ninth ninths", 10: "tenth tenths",
        100: "hundredth hundredths", 1000: "thousandth thousandths",
    }.items()
    for word in words.split()
}  # fmt: skip


def number_in_words(words: str) -> str | None:
    """The number that words spell, as LaTeX, or None. "One half" is a number, "half" alone is not."""
    tokens = [token for token in re.split(r"[\s-]+", words.lower()) if token]
    if len(tokens) < 2 and not (tokens and tokens[0] in SMALL):
        return None
    if tokens and tokens[-1] in PARTS:
        front = tokens[:-1]
        whole: list[str] = []
        if "and" in front:
            whole, front = front[: front.index("and")], front[front.index("and") + 1 :]
        times = 1 if front in (["a"], ["an"]) else _integer(front)
        before = _integer(whole) if whole else 0
        if times is None or before is None:
            return None
        value = before + times * PARTS[tokens[-1]]
        return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    number = _integer([token for token in tokens if token != "and"])
    return None if number is None else str(number)


def _integer(tokens: list[str]) -> int | None:
    total = group = 0
    previous = None
    for token in tokens:
        if token in SMALL:
            # "twenty five" and "hundred five" are numbers; "five six" is not.
            if previous in SMALL and not (SMALL[str(previous)] >= 20 and 0 < SMALL[token] < 10):
                return None
            group += SMALL[token]
        elif token == "hundred" and group:
            group *= 100
        elif token in LARGE and group:
            total, group = total + group * LARGE[token], 0
        else:
            return None
        previous = token
    return total + group if tokens else None


def with_repeating_decimals(latex: str) -> str:
    r"""Decimals that repeat, written with \overline: 0.\dot3, 0.\dot12\dot3, 0.(3) and 0.333\ldots."""
    latex = re.sub(
        r"(\.\d*)\\dot\s*(?:\{(\d)\}|(\d))(?:(\d*)\\dot\s*(?:\{(\d)\}|(\d)))?",
        lambda match: rf"{match[1]}\overline{{{''.join(part or '' for part in match.groups()[1:])}}}",
        latex,
    )
    latex = re.sub(r"^(\{*[-+]?\d*\.\d*)\((\d+)\)(?=\}*$)", r"\1\\overline{\2}", latex)
    return re.sub(r"(\d*\.)(\d+)\s*\\ldots", _repeating, latex)


def _repeating(match: re.Match[str]) -> str:
    """The digits before an ellipsis, if their end repeats: twice a block of digits, or three times one digit."""
    digits = match[2]
    for length in range(1, len(digits) // 2 + 1):
        block = digits[-length:]
        times = 1
        while digits.endswith(block * (times + 1)):
            times += 1
        if times >= (3 if length == 1 else 2) or (length == 1 and times == len(digits) == 2):
            return rf"{match[1]}{digits[: -length * times]}\overline{{{block}}}"
    return match[0]
