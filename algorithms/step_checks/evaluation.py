"""Run a compiled expression, and compare two of them under every reading that they allow.

Notation has more than one reading: 5% is 0.05 or five percent, 30° a number of radians or of degrees, log has base
10 or e, 2 1/2 is a mixed number or a product, and a unit is a quantity or a remark. Two sides are equal if they are
equal under one reading, and unequal if they differ under all.
"""

import itertools
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

from algorithms.step_checks import numbers
from algorithms.step_checks.expressions import Expression, Operation
from algorithms.step_checks.numbers import Undefined, Value
from algorithms.step_checks.units import size_of


@dataclass(frozen=True, slots=True)
class Reading:
    """One meaning of the notation that has several. `units` tells whether units have sizes."""

    percent: Value = Fraction(1, 100)
    degree: Value = math.pi / 180
    base: Value = 10
    mixed_is_sum: bool = True
    units: bool = True


LITERAL: Final = Reading()
WITHOUT_UNITS: Final = Reading(units=False)
CHOICES: Final[Mapping[str, tuple[tuple[str, Value], ...]]] = {
    "%": (("percent", Fraction(1, 100)), ("percent", 1)),
    "deg": (("degree", math.pi / 180), ("degree", 1)),
    "log": (("base", 10), ("base", math.e)),
    "mixed": (("mixed_is_sum", True), ("mixed_is_sum", False)),
    "unit": (("units", True), ("units", False)),
}
NO_VALUES: Final[Mapping[str, Value]] = {}
Functions = Mapping[str, tuple[str, Expression]]

BINARY: Final[Mapping[str, Callable[[Value, Value], Value]]] = {
    "+": numbers.add,
    "-": numbers.subtract,
    "*": numbers.multiply,
    "/": numbers.divide,
    "/v": numbers.divide,  # by an expression with variables
    "^": numbers.power,
    "mod": numbers.modulo,
    "root": numbers.root,
    "binom": numbers.binomial,
    "gcd": numbers.whole_numbers(math.gcd),
    "lcm": numbers.whole_numbers(math.lcm),
}
UNARY: Final[Mapping[str, Callable[[Value], Value]]] = {
    "neg": numbers.negate,
    "!": numbers.factorial,
    "abs": numbers.absolute,
    "floor": numbers.whole(math.floor),
    "ceil": numbers.whole(math.ceil),
    "ln": numbers.on_floats(math.log),
    "exp": numbers.on_floats(math.exp),
    "sin": numbers.on_floats(math.sin),
    "cos": numbers.on_floats(math.cos),
    "tan": numbers.on_floats(math.tan),
    "cot": numbers.on_floats(lambda angle: 1 / math.tan(angle)),
    "sec": numbers.on_floats(lambda angle: 1 / math.cos(angle)),
    "csc": numbers.on_floats(lambda angle: 1 / math.sin(angle)),
    "cis": numbers.unit_complex,
    "arcsin": numbers.on_floats(math.asin),
    "arccos": numbers.on_floats(math.acos),
    "arctan": numbers.on_floats(math.atan),
}
MAX_CALLS: Final = 3  # functions within functions


def evaluate(
    expression: Expression,
    values: Mapping[str, Value] = NO_VALUES,
    reading: Reading = LITERAL,
    functions: Functions | None = None,
) -> Value:
    """The value of an expression. Raises ArithmeticError if it has none, or if a name has no value."""
    try:
        return _run(expression.program, values, reading, functions or {}, 0)
    except (ValueError, TypeError) as error:  # a NaN to round, complex numbers to compare
        raise Undefined from error


def _run(
    program: tuple[Operation, ...], values: Mapping[str, Value], reading: Reading, functions: Functions, calls: int
) -> Value:
    stack: list[Value] = []
    push, pop = stack.append, stack.pop
    for name, operand in program:
        if name == "n":
            push(operand)  # type: ignore[arg-type]
        elif name in BINARY:
            right = pop()
            push(BINARY[name](pop(), right))
        elif name in UNARY:
            push(UNARY[name](pop()))
        elif name == "v":
            if operand not in values:
                raise Undefined
            push(values[operand])  # type: ignore[index]
        elif name == "tuple":
            assert isinstance(operand, int)
            items = tuple(stack[-operand:])
            del stack[-operand:]
            push(items)
        elif name == "mixed":
            right = pop()
            push((numbers.add if reading.mixed_is_sum or operand == "sum" else numbers.multiply)(pop(), right))
        elif name == "%":
            push(numbers.multiply(pop(), reading.percent))
        elif name == "deg":
            push(numbers.multiply(pop(), reading.degree))
        elif name == "unit":
            if reading.units:
                push(numbers.multiply(pop(), size_of(str(operand))))
        elif name == "log":
            push(numbers.logarithm(pop(), reading.base))
        elif name == "log_":
            argument = pop()
            push(numbers.logarithm(argument, pop()))
        elif name == "pi":
            push(math.pi)
        elif name == "call":
            if calls == MAX_CALLS or operand not in functions:
                raise Undefined
            letter, body = functions[str(operand)]
            push(_run(body.program, {letter: pop()}, reading, functions, calls + 1))
        else:
            assert name == "label", name
    (result,) = stack
    return result


def readings_of(*sides: Expression) -> tuple[Reading, ...]:
    """The readings under which the sides can differ."""
    special = frozenset().union(*[side.special for side in sides])
    return _readings(special) if special else (LITERAL,)


@lru_cache(maxsize=64)
def _readings(special: frozenset[str]) -> tuple[Reading, ...]:
    choices = itertools.product(*[CHOICES[name] for name in sorted(special)])
    return tuple([Reading(**dict(choice)) for choice in choices])  # type: ignore[arg-type]


def gap(left: Value, right: Value) -> float:
    """How far two values are apart, as a share of the larger one; undefined for values of different types."""
    if isinstance(left, tuple) or isinstance(right, tuple):
        if not isinstance(left, tuple) or not isinstance(right, tuple) or len(left) != len(right):
            raise Undefined
        return max([gap(each, other) for each, other in zip(left, right, strict=True)])
    if left == right:
        return 0.0
    distance = numbers.size(left - right)
    if math.isnan(distance) or math.isinf(distance):
        raise Undefined
    # A result that cancels to zero in floats is as good as zero.
    floor = 1e-3 if isinstance(left, float | complex) or isinstance(right, float | complex) else 0.0
    return distance / max(numbers.size(left), numbers.size(right), floor)


def point(name: str, number: int) -> float:
    """Where an identity is tried: a value between 1 and 3 for each name, the same in every process."""
    return 1.0 + (zlib.crc32(f"{name}{number}".encode()) % 999_983) / 499_991.5
