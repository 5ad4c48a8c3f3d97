"""Exact polynomials in x, and the numbers and equations of a text.

A polynomial is a mapping from degrees to coefficients that are not zero; a number is a polynomial of degree 0.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final, TypeAlias

Polynomial: TypeAlias = dict[int, Fraction]

NUMBER_WORDS: Final = {"twice": 2, "three times": 3, "four times": 4}
TOKEN: Final = re.compile(r"\s*(\d+(?:\.\d+)?|f'?(?=\()|x|[-+*/^()])")
SPAN: Final = re.compile(r"(?:f'?(?=\()|(?<![A-Za-z'])x(?![A-Za-z'])|\d+(?:\.\d+)?|[-+*/^()=\s])+")


def numbers(text: str) -> set[Fraction]:
    """The sizes of all numbers in a text, without signs, those written as words included."""
    found = {Fraction(number) for number in re.findall(r"\d+(?:\.\d+)?", text)}
    return found | {Fraction(size) for word, size in NUMBER_WORDS.items() if word in text.lower()}


def equations(text: str) -> list[list[str]]:
    """The sides of each equation `A = B = ...` in a text."""
    text = re.sub(r" (?:equals|comes to) ", " = ", text)
    spans = [span.strip() for span in SPAN.findall(text) if "=" in span]
    return [[side.strip() for side in span.split("=")] for span in spans]


def polynomial(text: str, functions: Mapping[str, Polynomial] | None = None) -> Polynomial:
    """The value of an expression. `functions` may define f and f'. Raises ValueError for anything else."""
    tokens, end = [], 0
    while end < len(text.rstrip()):
        token = TOKEN.match(text, end)
        if token is None:
            raise ValueError(f"cannot read {text!r} from character {end} on")
        tokens.append(token[1])
        end = token.end()
    parser = _Parser([*tokens, ""], functions or {})
    value = parser.sum()
    if parser.next:
        raise ValueError(f"cannot read {parser.next!r} in {text!r}")
    return value


def at(value: Polynomial, x: Fraction) -> Fraction:
    """The value of a polynomial at x."""
    return sum((factor * x**degree for degree, factor in value.items()), Fraction(0))


def derivative(value: Polynomial) -> Polynomial:
    """The derivative of a polynomial."""
    return {degree - 1: factor * degree for degree, factor in value.items() if degree}


def difference(one: Polynomial, other: Polynomial) -> Polynomial:
    """`one` minus `other`."""
    return _added(one, _multiplied(other, {0: Fraction(-1)}))


def _added(one: Polynomial, other: Polynomial) -> Polynomial:
    factors = {degree: one.get(degree, Fraction(0)) + other.get(degree, Fraction(0)) for degree in {*one, *other}}
    return {degree: factor for degree, factor in factors.items() if factor}


def _multiplied(one: Polynomial, other: Polynomial) -> Polynomial:
    product: Polynomial = {}
    for degree, factor in one.items():
        product = _added(product, {degree + further: factor * times for further, times in other.items()})
    return product


def _number(value: Polynomial) -> Fraction:
    if set(value) - {0}:
        raise ValueError("x stands where only a number can stand")
    return value.get(0, Fraction(0))


class _Parser:
    """Recursive descent over tokens, the last of which is empty. `2x` and `2(x + 1)` are products."""

    def __init__(self, tokens: list[str], functions: Mapping[str, Polynomial]) -> None:
        self.tokens = tokens
        self.functions = functions
        self.place = 0

    @property
    def next(self) -> str:
        return self.tokens[self.place]

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def sum(self) -> Polynomial:
        value = self.product()
        while self.next in ("+", "-"):
            sign = Fraction(1 if self.take() == "+" else -1)
            value = _added(value, _multiplied(self.product(), {0: sign}))
        return value

    def product(self) -> Polynomial:
        if self.next == "-":
            self.take()
            return _multiplied(self.product(), {0: Fraction(-1)})
        value = self.power()
        while self.next in ("*", "/", "x", "("):
            if self.next == "/":
                self.take()
                divisor = _number(self.power())
                if not divisor:
                    raise ValueError("division by zero")
                value = _multiplied(value, {0: 1 / divisor})
                continue
            if self.next == "*":
                self.take()
            value = _multiplied(value, self.power())
        return value

    def power(self) -> Polynomial:
        value = self.atom()
        if self.next != "^":
            return value
        self.take()
        exponent = _number(self.atom())
        if exponent.denominator != 1 or not 0 <= exponent <= 100:
            raise ValueError(f"exponent {exponent}")
        power: Polynomial = {0: Fraction(1)}
        for _ in range(int(exponent)):
            power = _multiplied(power, value)
        return power

    def atom(self) -> Polynomial:
        token = self.take()
        if token == "x":
            return {1: Fraction(1)}
        if token[:1].isdigit():
            return {0: Fraction(token)} if Fraction(token) else {}
        if token == "(":
            value = self.sum()
            if self.take() != ")":
                raise ValueError("a bracket is not closed")
            return value
        if token in self.functions:
            argument = self.atom()
            if argument == {1: Fraction(1)}:
                return self.functions[token]
            value_there = at(self.functions[token], _number(argument))
            return {0: value_there} if value_there else {}
        raise ValueError(f"{token!r} stands where a value must stand")
