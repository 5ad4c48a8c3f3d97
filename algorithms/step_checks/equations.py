"""Equations that follow from one another.

An equation follows if it is the last one in the same variables times a constant, or if one holds at a root of the
other. Two equations that differ may be two facts, so few are judged false: an equation said to be the last one in
another form, or one that shares no root with the last one, from which it is derived.
"""

import math
from collections.abc import Iterator
from typing import Final

from algorithms.step_checks import numbers
from algorithms.step_checks.claims import Claim
from algorithms.step_checks.context import (
    CHANGED,
    DERIVED,
    RESTATED,
    REWRITTEN,
    TRIED,
    UNRELATED,
    is_denied,
    sentence_before,
)
from algorithms.step_checks.evaluation import evaluate, gap, point
from algorithms.step_checks.expressions import tuple_of_variables, variable
from algorithms.step_checks.known import SAME, Equation, Known, define, difference, is_identity
from algorithms.step_checks.numbers import Value
from algorithms.step_checks.roots import assigned_claims, substituted
from algorithms.step_checks.statements import Statement

NEAR: Final = 160  # characters between an equation and what follows from it
POINTS: Final = 3


def equation_claims(text: str, statement: Statement, known: Known, *, in_question: bool = False) -> Iterator[Claim]:
    """The claims of a statement with variables, which is then known."""
    if set(statement.relations) != {"="}:
        return
    define(statement, known)
    first, last = statement.sides[0], statement.sides[-1]
    name = variable(first)
    if name is not None and last is not None and not last.names:
        known.constrain(statement)
        yield from assigned_claims(text, statement, known, (name,), last, in_question)
        return
    if first is not None and last is not None and not last.names and (names := tuple_of_variables(first)):
        known.constrain(statement)
        yield from assigned_claims(text, statement, known, names, last, in_question)
        return
    if name is not None and len(statement.sides) == 2 and last is None:
        known.doubtful.add(name)
    for n in range(len(statement.sides) - 1):
        left, right = statement.sides[n], statement.sides[n + 1]
        if left is None or right is None or not (left.names or right.names):
            continue
        if left.names and not right.names and len(left.program) > 1:
            claim = substituted(text, statement, n, known)
            if claim is not None:
                yield claim
                if claim.verdict is not None:
                    continue
        equation = Equation(left, right, statement.places[n][0], 0 if in_question else statement.places[n + 1][1])
        if any(each.endswith("()") for each in equation.names) or is_identity(equation):
            continue
        known.constrain(statement)
        if len(statement.sides) == 2 and not in_question:
            yield from _derived(text, equation, known)
        known.remember(equation)


def _derived(text: str, equation: Equation, known: Known) -> Iterator[Claim]:
    names = equation.names
    for earlier in reversed(known.equations):
        if earlier.names != names:
            continue
        verdict = _follows(earlier, equation)
        if verdict:
            yield Claim(equation.start, equation.end, "equation", True)
        elif earlier is known.equations[-1] and earlier.end and verdict is not None:
            between = text[earlier.end : equation.start]
            if len(between) < NEAR and (DERIVED.search(between) or REWRITTEN.search(between)):
                is_false = _is_broken(text, between, earlier, equation)
                yield Claim(equation.start, equation.end, "equation", False if is_false else None)
        return


def _is_broken(text: str, between: str, earlier: Equation, later: Equation) -> bool:
    """Whether an equation that differs from the last one was meant to be the same, or to have its roots."""
    if earlier.is_special or later.is_special or earlier.is_solved or is_denied(text, later.start, later.end):
        return False
    if _rewrites(between, later.names) and not TRIED.search(sentence_before(text, later.start)):
        return True
    if len(later.names) > 1 or not DERIVED.search(between) or UNRELATED.search(between):
        return False
    return _share_no_root(earlier, later)


def _rewrites(between: str, names: frozenset[str]) -> bool:
    """Whether the words between two equations say that the second is the first in another form."""
    if len(names) > 1 and "\\end{" in between:  # one equation of a system
        return False
    return REWRITTEN.search(between) is not None and not CHANGED.search(between) and not RESTATED.search(between)


def _share_no_root(earlier: Equation, later: Equation) -> bool:
    """Whether no root of the later equation, linear or quadratic in one variable, solves the earlier one."""
    (name,) = later.names
    try:
        at = [difference(later, {name: value}) for value in (-1, 0, 1, 2)]
        if any(isinstance(each, tuple | complex) for each in at):
            return False
        low, middle, high, further = (float(each) for each in at)  # type: ignore[arg-type]
        second, slope = (low + high) / 2 - middle, (high - low) / 2
        if abs(4 * second + 2 * slope + middle - further) > 1e-9 * (1 + abs(further)):
            return False
        root = math.sqrt(slope * slope - 4 * second * middle)
        roots = [(-slope + root) / (2 * second), (-slope - root) / (2 * second)] if second else [-middle / slope]
        return all(
            gap(evaluate(earlier.left, {name: each}), evaluate(earlier.right, {name: each})) > 1e-4 for each in roots
        )
    except (ArithmeticError, TypeError, ValueError):
        return False


def _follows(earlier: Equation, later: Equation) -> bool | None:
    """Whether one equation is the other times a constant, or holds where the other does; None without values."""
    names = sorted(later.names)
    try:
        ratios = []
        for number in range(POINTS):
            values: dict[str, Value] = {name: point(name, number) for name in names}
            ratios.append(numbers.divide(difference(later, values), difference(earlier, values)))
        if max([gap(ratio, ratios[0]) for ratio in ratios]) < SAME:
            return True
        return any(
            _holds_at_root(earlier, later, name, names) or _holds_at_root(later, earlier, name, names)
            for name in names[:3]
        )
    except (ArithmeticError, TypeError):
        return None


def _holds_at_root(earlier: Equation, later: Equation, name: str, names: list[str]) -> bool:
    """Whether the earlier equation is linear in a variable, and its root solves the later one."""
    for number in range(2):
        values: dict[str, Value] = {each: point(each, number) for each in names}
        at = [difference(earlier, {**values, name: each}) for each in (2, 3, 5)]
        slope = numbers.subtract(at[1], at[0])
        if slope == 0 or gap(numbers.subtract(at[2], at[1]), numbers.multiply(2, slope)) > 1e-9:
            return False
        values[name] = numbers.subtract(2, numbers.divide(at[0], slope))
        if gap(evaluate(later.left, values), evaluate(later.right, values)) > SAME:
            return False
    return True
