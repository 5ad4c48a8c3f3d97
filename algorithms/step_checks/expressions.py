"""A compiled expression: a program for a stack machine, with what others need to know of it."""

from dataclasses import dataclass
from typing import Final, TypeAlias

from algorithms.step_checks.numbers import Value

READ_TWICE: Final = frozenset(("mixed", "%", "deg", "log", "unit"))  # operations with more than one reading

Operation: TypeAlias = "tuple[str, Value | str]"


class Unparsable(ValueError):
    """Tokens that are no expression, or none with one meaning."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled side. `decimals` is None unless the side is one number; then it counts the digits after the point."""

    program: tuple[Operation, ...]
    names: frozenset[str]
    units: frozenset[str]
    special: frozenset[str]
    decimals: int | None
    has_decimals: bool
    text: tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether the side is a number without any operation but a sign."""
        return self.decimals is not None


def variable(side: Expression | None) -> str | None:
    """The name of a side that is one variable."""
    if side is None or len(side.program) != 1 or side.program[0][0] != "v":
        return None
    return str(side.program[0][1])


def tuple_of_variables(side: Expression) -> tuple[str, ...]:
    """The names in (x, y); none for other sides."""
    *parts, (last, count) = side.program
    if last != "tuple" or len(parts) != count or any(name != "v" for name, _ in parts):
        return ()
    return tuple([str(name) for _, name in parts])
