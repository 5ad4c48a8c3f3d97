"""Chains of numbers: 3 \\cdot 4 + 2 = 14 = 28/2, with =, signs of approximation, inequalities and congruences.

An equality may be rounded: to the digits that its last side shows. Chains that run on (5 + 3 = 8 * 2 = 16) abuse the
sign and stay unchecked.
"""

import re
from collections.abc import Iterator
from typing import Final

from algorithms.step_checks.claims import Claim
from algorithms.step_checks.context import is_denied
from algorithms.step_checks.evaluation import Reading, evaluate, gap, readings_of
from algorithms.step_checks.expressions import Expression
from algorithms.step_checks.numbers import Value, modulo, multiply, size
from algorithms.step_checks.statements import Statement
from algorithms.step_checks.units import is_measure, stem

EXACT: Final = 1e-9
NEAR: Final = 0.01  # a relative error that rounded numbers may have
FAR: Final = 0.05  # a relative error that no approximation has
CURVED: Final = re.compile("polar|cylindrical|spherical")  # coordinates that are unequal for one point
ORDERS: Final = {"<": (-1,), ">": (1,), "<=": (-1, 0), ">=": (1, 0)}


def numeric_claims(text: str, statement: Statement) -> Iterator[Claim]:
    """The claims that two neighbouring sides without variables make."""
    sides, relations = statement.sides, statement.relations
    last: int | None = None
    for n, side in enumerate(sides):
        if side is None or side.names:
            if n and relations[n - 1] != "=":
                last = None
            continue
        if last is not None and set(relations[last : n - 1]) <= {"="}:
            left = sides[last]
            assert left is not None
            relation = relations[n - 1]
            if not (left.is_number and side.is_number and left.text == side.text):
                start, end = statement.places[last][0], statement.places[n][1]
                yield _claim(text, statement, left, relation, side, start, end)
        last = n


def _claim(
    text: str, statement: Statement, left: Expression, relation: str, right: Expression, start: int, end: int
) -> Claim:
    kind = kind_of(relation, left, right)
    if kind == "vector" and CURVED.search(text):
        return Claim(start, end, kind, None)
    verdict = compare(left, relation, right, statement.modulus)
    if verdict is False and (
        (left.is_number and right.is_number and relation in ("=", "~", "mod"))
        or (relation == "=" and _runs_on(left, right))
        or _is_share(left, right)
        or (not statement.is_formula and _is_loose(text, statement, left))
        or is_denied(text, statement.start, statement.end)
    ):
        verdict = None
    return Claim(start, end, kind, verdict)


def kind_of(relation: str, left: Expression, right: Expression) -> str:
    """The kind of a claim about two sides without variables."""
    if relation == "mod":
        return "congruence"
    if relation == "~":
        return "approximation"
    if relation != "=":
        return "inequality"
    if any(name == "tuple" for side in (left, right) for name, _ in side.program):
        return "vector"
    return "quantity" if (left.special | right.special) & {"unit", "%", "deg"} else "equality"


def compare(left: Expression, relation: str, right: Expression, modulus: Expression | None = None) -> bool | None:
    """Whether the relation holds under one reading of the sides; None if that is doubtful."""
    verdicts = []
    for reading in readings_of(left, right):
        try:
            first, second = evaluate(left, reading=reading), evaluate(right, reading=reading)
            verdict = _holds(left, first, relation, right, second, modulus, reading)
        except (ArithmeticError, TypeError):
            verdict = None
        if verdict:
            return True
        verdicts.append(verdict)
    if None in verdicts or _units_clash(left, right):
        return None
    return False


def _holds(
    left: Expression, first: Value, relation: str, right: Expression, second: Value, modulus: Expression | None,
    reading: Reading,
) -> bool | None:  # fmt: skip
    if relation == "mod":
        return _congruent(first, second, modulus)
    if relation in ORDERS:
        return _ordered(first, relation, second)
    distance = gap(first, second)
    if relation == "!=":
        return distance > EXACT or None
    if distance <= EXACT:
        return True
    shown = _rounding(right, reading) or _rounding(left, reading)
    difference = float("inf") if isinstance(first, tuple) or isinstance(second, tuple) else size(first - second)
    if relation == "~":
        shown = shown or _last_digit(right)
        if (shown and difference <= shown * 1.001) or distance < NEAR:
            return True
        return False if distance > FAR else None
    if shown and difference <= shown * 1.001:
        return True
    if right.is_number and right.decimals == 0 and isinstance(second, int) and difference < 1:
        return None  # rounded to a whole number
    if min(_times_hundred(first, second), _times_hundred(second, first)) <= EXACT:
        return None  # dollars and cents, or a percent without its sign
    inexact = left.has_decimals or right.has_decimals or isinstance(first, float) or isinstance(second, float)
    return None if distance < (NEAR if inexact else EXACT) else False


def _times_hundred(first: Value, second: Value) -> float:
    return gap(multiply(100, first), second)


def _congruent(first: Value, second: Value, modulus: Expression | None) -> bool | None:
    if modulus is None or modulus.names:
        return None
    divisor = evaluate(modulus)
    return modulo(first, divisor) == modulo(second, divisor)


def _ordered(first: Value, relation: str, second: Value) -> bool | None:
    if isinstance(first, tuple | complex) or isinstance(second, tuple | complex):
        return None
    if gap(first, second) <= EXACT:
        return 0 in ORDERS[relation]
    return (1 if first > second else -1) in ORDERS[relation]


def _rounding(side: Expression, reading: Reading) -> float:
    """The unit in the last place of a decimal; 0 for other expressions."""
    if not side.decimals:
        return 0.0
    scale = size(reading.percent) if "%" in side.special else 1.0
    return scale * 10.0**-side.decimals


def _last_digit(side: Expression) -> float:
    """The place value of the last digit that is not zero, for a whole number: 100 for 1200."""
    value = side.program[0][1] if side.is_number else 0
    if not isinstance(value, int) or value == 0:
        return 0.0
    digits = str(value)
    return 10.0 ** (len(digits) - len(digits.rstrip("0")))


def _runs_on(left: Expression, right: Expression) -> bool:
    """Whether the right side goes on with the result of the left one, as in 5 + 3 = 8 * 2."""
    if right.is_number or len(right.program) < 3 or right.program[0][0] != "n":
        return False
    try:
        return gap(evaluate(left), right.program[0][1]) <= EXACT  # type: ignore[arg-type]
    except (ArithmeticError, TypeError):
        return False


def _is_share(left: Expression, right: Expression) -> bool:
    """Whether the left side is a share of something, not a number: 3/4 apple = 12."""
    return bool(left.units) and not right.units and all(name in ("n", "/", "unit") for name, _ in left.program)


def _is_loose(text: str, statement: Statement, left: Expression) -> bool:
    """Whether the words before a sum in prose belong to it: half of 3 + 4, 5 times 3 + 2, minus 2 = 8."""
    before = text[max(0, statement.start - 24) : statement.start].lower().rstrip(" $(\\")
    words = before.split()
    if left is statement.sides[0] and words and words[-1].strip("*") in LOOSE_WORDS:
        return True
    return bool(before) and before[-1] in "+*/^-=×÷" and left is statement.sides[0]


LOOSE_WORDS: Final = frozenset(
    [
        "half",
        "twice",
        "double",
        "triple",
        "times",
        "by",
        "plus",
        "minus",
        "less",
        "than",
        "and",
        "of",
        "third",
        "quarter",
        "fourth",
        "divided",
        "tenth",
        "thrice",
        "the-",
    ]
)


def _units_clash(left: Expression, right: Expression) -> bool:
    """Whether both sides have units, and different ones whose sizes are not all known."""
    first, second = ({stem(unit) for unit in side.units} for side in (left, right))
    if not first or not second or first == second:
        return False
    return not all(is_measure(unit) for unit in left.units | right.units)
