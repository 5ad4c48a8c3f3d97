"""What a text has stated so far: equations, values of variables, functions."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from algorithms.step_checks import numbers
from algorithms.step_checks.evaluation import evaluate, gap, point
from algorithms.step_checks.expressions import Expression, variable
from algorithms.step_checks.numbers import Value
from algorithms.step_checks.statements import Statement

REMEMBERED: Final = 8
SAME: Final = 1e-7
SPECIAL: Final = frozenset(
    ("abs", "floor", "ceil", "%", "mod", "deg", "log", "log_", "ln", "unit", "mixed", "/v", "root")
)
MAX_CONSTRAINTS: Final = 64


@dataclass(slots=True)
class Equation:
    """Two sides, with their place. `end` is 0 for an equation of the question."""

    left: Expression
    right: Expression
    start: int
    end: int
    is_solved: bool = False  # a value of one of its variables follows it

    @property
    def is_special(self) -> bool:
        """Whether the equation depends on a case or a reading, or changes its form when it is simplified."""
        return any(name in SPECIAL for side in (self.left, self.right) for name, _ in side.program)

    @property
    def has_readings(self) -> bool:
        """Whether its notation allows more than one reading."""
        return bool(self.left.special | self.right.special)

    @property
    def names(self) -> frozenset[str]:
        """The variables of both sides."""
        return self.left.names | self.right.names


@dataclass(slots=True)
class Known:
    """What a text has stated so far."""

    equations: list[Equation] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)  # names with more than one value
    functions: dict[str, tuple[str, Expression]] = field(default_factory=dict)
    constraints: list[tuple[frozenset[str], str | None]] = field(default_factory=list)
    given: frozenset[str] = frozenset()  # functions that the question defines

    def copy(self) -> "Known":
        """A copy that can learn more."""
        return Known(
            [replace(equation) for equation in self.equations],
            dict(self.values),
            set(self.doubtful),
            dict(self.functions),
            list(self.constraints),
            frozenset([f"{name}()" for name in self.functions]),
        )

    def value(self, name: str, value: Value) -> None:
        """Note the value of a variable."""
        if name in self.values and not _same(self.values[name], value):
            self.doubtful.add(name)
        self.values[name] = value
        for equation in self.equations:
            equation.is_solved |= name in equation.names

    def remember(self, equation: Equation) -> None:
        """Keep an equation, and forget the oldest one of many."""
        self.equations.append(equation)
        if len(self.equations) > REMEMBERED:
            del self.equations[0]

    def constrains(self, names: frozenset[str]) -> bool:
        """Whether something is known of the variables, so that they do not stand for any number."""
        if len(self.constraints) > MAX_CONSTRAINTS:
            return True
        return any(names & bound and defined not in bound - names for bound, defined in self.constraints)

    def constrain(self, statement: Statement) -> None:
        """Note that the variables of a statement are related."""
        if len(self.constraints) > MAX_CONSTRAINTS:
            return
        sides = [side for side in statement.sides if side is not None]
        names = frozenset().union(*[side.names for side in sides])
        if names:
            self.constraints.append((names, variable(statement.sides[0])))

    def can_evaluate(self, expression: Expression) -> bool:
        """Whether each variable and function has one value."""
        return all(
            name not in self.doubtful and (name[:-2] in self.functions if name.endswith("()") else name in self.values)
            for name in expression.names
        )

    def sure(self) -> Mapping[str, Value]:
        """The variables with one value."""
        if not self.doubtful:
            return self.values
        return {name: value for name, value in self.values.items() if name not in self.doubtful}


def _same(value: Value, other: Value) -> bool:
    try:
        return gap(value, other) < SAME
    except ArithmeticError:  # a number and a tuple
        return False


def define(statement: Statement, known: Known) -> None:
    """Note the definition of a function, f(x) = x + 1. A second definition makes both doubtful."""
    first = statement.sides[0]
    if first is None or len(first.program) != 2 or first.program[0][0] != "v" or first.program[1][0] != "call":
        return
    letter, function = str(first.program[0][1]), str(first.program[1][1])
    body = statement.sides[1]
    if body is None:
        known.doubtful.add(function + "()")
        return
    if not body.names <= {letter, *[f"{name}()" for name in known.functions]}:
        return
    if function not in known.functions:
        known.functions[function] = (letter, body)
    elif known.functions[function][1].text != body.text:
        known.doubtful.add(function + "()")


def difference(equation: Equation, values: Mapping[str, Value]) -> Value:
    """Left side minus right side."""
    return numbers.subtract(evaluate(equation.left, values), evaluate(equation.right, values))


def is_identity(equation: Equation) -> bool:
    """Whether both sides are equal at a point without meaning."""
    values: dict[str, Value] = {name: point(name, 1) for name in equation.names}
    try:
        return gap(evaluate(equation.left, values), evaluate(equation.right, values)) < SAME
    except (ArithmeticError, TypeError):
        return False
