"""Expressions rewritten: (x + 1)^2 = x^2 + 2x + 1 holds at every point, and is tried at a few.

Two sides that differ may be an equation to solve or a definition. They are a false identity only in a chain of
rewritings, and only of variables of which nothing else is known. `equations` judges two sides alone.
"""

from collections.abc import Iterator
from typing import Final

from algorithms.step_checks.claims import Claim
from algorithms.step_checks.context import SUPPOSED, is_denied, sentence_before
from algorithms.step_checks.evaluation import evaluate, gap, point
from algorithms.step_checks.expressions import Expression
from algorithms.step_checks.known import Known
from algorithms.step_checks.numbers import Value
from algorithms.step_checks.statements import Statement

POINTS: Final = 3
SAME: Final = 1e-7


def identity_claims(text: str, statement: Statement, known: Known, is_complex: bool) -> Iterator[Claim]:
    """The claims that neighbouring sides with variables make."""
    sides = statement.sides
    held = [
        _agree(left, right, is_complex) if relation == "=" else None
        for left, right, relation in zip(sides, sides[1:], statement.relations, strict=False)
    ]
    for n, holds in enumerate(held):
        left, right = sides[n], sides[n + 1]
        if holds is None or left is None or right is None or left.text == right.text:
            continue
        start, end = statement.places[n][0], statement.places[n + 1][1]
        if holds:
            yield Claim(start, end, "identity", True)
        elif len(sides) > 2 and _is_compound(left):
            verdict = _is_rewriting(text, statement, n, known, is_complex)
            if verdict or n:
                yield Claim(start, end, "identity", False if verdict else None)


def _is_compound(side: Expression) -> bool:
    """Whether there is something to rewrite."""
    return len(side.program) >= 5


def _agree(left: Expression | None, right: Expression | None, is_complex: bool) -> bool | None:
    """Whether two sides are equal at every point tried; None if one has no variables, or no value at some point."""
    if left is None or right is None:
        return None
    names = left.names | right.names
    if not (left.names and right.names) and not (is_complex and "i" in names):
        return None
    if any(name.endswith("()") for name in names):
        return None
    try:
        for number in range(POINTS):
            values: dict[str, Value] = {name: point(name, number) for name in names}
            if is_complex and "i" in names:
                values["i"] = 1j
            if gap(evaluate(left, values), evaluate(right, values)) > SAME:
                return False
    except (ArithmeticError, TypeError):
        return None
    return True


def _is_rewriting(text: str, statement: Statement, n: int, known: Known, is_complex: bool) -> bool:
    """Whether the sides n and n + 1, which differ, are meant to be one expression for all values."""
    left, right = statement.sides[n], statement.sides[n + 1]
    assert left is not None
    assert right is not None
    if "digit" in text or is_denied(text, statement.start, statement.end):
        return False
    if any(name in ("floor", "ceil", "abs") for side in (left, right) for name, _ in side.program):
        return False
    names = left.names | right.names
    if is_complex:
        names -= {"i"}
    if (left.names != right.names and not is_complex) or set(statement.relations) != {"="}:
        return False
    return not known.constrains(names) and not SUPPOSED.search(sentence_before(text, statement.start))
