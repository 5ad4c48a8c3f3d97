"""Values that solve the equations stated before, and expressions whose variables have known values."""

from collections.abc import Iterator, Mapping
from typing import Final

from algorithms.step_checks.claims import Claim
from algorithms.step_checks.context import SUPPOSED, TRIED, is_denied, sentence_before
from algorithms.step_checks.evaluation import WITHOUT_UNITS, evaluate, gap
from algorithms.step_checks.expressions import Expression
from algorithms.step_checks.known import SAME, Equation, Known
from algorithms.step_checks.numbers import Value
from algorithms.step_checks.statements import Statement

NEAR: Final = 160  # characters between an equation and its root


def assigned_claims(
    text: str, statement: Statement, known: Known, names: tuple[str, ...], side: Expression, in_question: bool
) -> Iterator[Claim]:
    """A variable is given a value: does it solve the last equations in that variable?"""
    try:
        value = evaluate(side, reading=WITHOUT_UNITS)
    except (ArithmeticError, TypeError):
        return
    parts = value if isinstance(value, tuple) and len(names) > 1 else (value,)
    if len(parts) != len(names):
        return
    assigned = dict(zip(names, parts, strict=True))
    before = sentence_before(text, statement.start)
    if not in_question and not TRIED.search(before):
        yield from _root(text, statement, known, assigned, side)
    for name, part in assigned.items():
        known.value(name, part)


def _root(
    text: str, statement: Statement, known: Known, assigned: Mapping[str, Value], side: Expression
) -> Iterator[Claim]:
    values = {**known.sure(), **assigned}
    solved: list[tuple[Equation, bool]] = []
    for equation in reversed(known.equations):
        names = equation.names
        if names & assigned.keys() and names <= values.keys():
            try:
                solved.append((equation, gap(evaluate(equation.left, values), evaluate(equation.right, values)) < SAME))
            except (ArithmeticError, TypeError):
                continue
    if not solved:
        return
    equation, holds = solved[0]
    verdict: bool | None = True if all(right for _, right in solved) else None
    if not holds:
        verdict = False
        is_near = equation.names <= assigned.keys() and equation.end > 0 and statement.start - equation.end < NEAR
        if (
            not is_near
            or side.special
            or equation.has_readings
            or any(right for _, right in solved)
            or is_denied(text, statement.start, statement.end)
        ):
            verdict = None
    yield Claim(statement.start, statement.end, "root", verdict)


def substituted(text: str, statement: Statement, n: int, known: Known) -> Claim | None:
    """An expression whose variables and functions are known, said to be a number."""
    left, right = statement.sides[n], statement.sides[n + 1]
    assert left is not None
    assert right is not None
    if not known.can_evaluate(left):
        return None
    values = known.sure()
    try:
        agrees = gap(evaluate(left, values, functions=known.functions), evaluate(right)) < SAME
    except (ArithmeticError, TypeError):
        return None
    start, end = statement.places[n][0], statement.places[n + 1][1]
    if agrees:
        return Claim(start, end, "substitution", True)
    is_sure = all(name.endswith("()") and name in known.given for name in left.names)
    if not is_sure or is_denied(text, start, end) or SUPPOSED.search(sentence_before(text, start)):
        return Claim(start, end, "substitution", None)
    return Claim(start, end, "substitution", False)
