"""Arithmetic with bounds: exact on integers and fractions, else on floats; tuples add and scale as vectors.

Every function raises ArithmeticError where the result is undefined or too long to compute cheaply.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Final, TypeAlias

Value: TypeAlias = "int | Fraction | float | complex | tuple[Value, ...]"

MAX_INTEGER_BITS: Final = 8192
MAX_FRACTION_BITS: Final = 1024
MAX_FACTORIAL: Final = 400


class Undefined(ArithmeticError):
    """A result that does not exist, or that is too long to compute."""


def bounded(value: Value) -> Value:
    """The value itself, as an integer if it is one."""
    if isinstance(value, int):
        if value.bit_length() > MAX_INTEGER_BITS:
            raise Undefined
    elif isinstance(value, Fraction):
        if value.denominator == 1:
            return bounded(value.numerator)
        if value.numerator.bit_length() + value.denominator.bit_length() > MAX_FRACTION_BITS:
            raise Undefined
    return value


def add(left: Value, right: Value) -> Value:
    """The sum of two numbers, or of two vectors."""
    if isinstance(left, tuple) or isinstance(right, tuple):
        return _by_component(add, left, right)
    return bounded(left + right)


def subtract(left: Value, right: Value) -> Value:
    """The difference of two numbers, or of two vectors."""
    if isinstance(left, tuple) or isinstance(right, tuple):
        return _by_component(subtract, left, right)
    return bounded(left - right)


def multiply(left: Value, right: Value) -> Value:
    """The product of two numbers, or of a number and a vector."""
    if isinstance(left, tuple):
        if isinstance(right, tuple):
            raise Undefined
        return tuple([multiply(each, right) for each in left])
    if isinstance(right, tuple):
        return tuple([multiply(left, each) for each in right])
    return bounded(left * right)


def divide(left: Value, right: Value) -> Value:
    """The quotient, as a fraction if both are exact."""
    if isinstance(right, tuple):
        raise Undefined
    if isinstance(left, tuple):
        return tuple([divide(each, right) for each in left])
    if isinstance(left, int) and isinstance(right, int):
        if right and left % right == 0:
            return left // right
        return bounded(Fraction(left, right))
    return bounded(left / right)


def negate(value: Value) -> Value:
    """The value with the other sign."""
    return tuple([negate(each) for each in value]) if isinstance(value, tuple) else -value


def power(base: Value, exponent: Value) -> Value:
    """A power, exact where the base is exact and the exponent is an integer or takes an exact root."""
    if isinstance(base, tuple) or isinstance(exponent, tuple):
        raise Undefined
    if isinstance(exponent, int):
        if isinstance(base, int | Fraction):
            bits = base.numerator.bit_length() + base.denominator.bit_length() - 1
            if abs(exponent) * bits > MAX_INTEGER_BITS and base not in (0, 1, -1):
                raise Undefined
            return bounded(Fraction(base) ** exponent) if exponent < 0 else bounded(base**exponent)
        result: float | complex = base**exponent
        return result
    if isinstance(exponent, Fraction) and isinstance(base, int | Fraction) and exponent.denominator <= 64:
        return power(root(base, exponent.denominator), exponent.numerator)
    if isinstance(base, complex) or isinstance(exponent, complex) or base < 0:
        raise Undefined
    real: float = float(base) ** float(exponent)
    return real


def root(value: Value, degree: Value) -> Value:
    """The real root of a number; the square root of a negative number is imaginary."""
    if isinstance(value, tuple | complex) or not isinstance(degree, int) or not 1 <= degree <= 64:
        raise Undefined
    if value < 0:
        if degree == 2:
            size = root(-value, 2)
            assert not isinstance(size, tuple)
            return 1j * size
        if degree % 2 == 0:
            raise Undefined
        return negate(root(-value, degree))
    if isinstance(value, float):
        return float(value ** (1 / degree))
    top, bottom = _whole_root(value.numerator, degree), _whole_root(value.denominator, degree)
    if top is not None and bottom is not None:
        return divide(top, bottom)
    return float(float(value) ** (1 / degree))


def _whole_root(value: int, degree: int) -> int | None:
    if degree == 1 or value < 2:
        return value
    near = math.isqrt(value) if degree == 2 else round(value ** (1 / degree))
    return near if near**degree == value else None


def factorial(value: Value) -> Value:
    """n! of a small whole number."""
    if not isinstance(value, int) or not 0 <= value <= MAX_FACTORIAL:
        raise Undefined
    return math.factorial(value)


def binomial(top: Value, bottom: Value) -> Value:
    """The number of ways to choose `bottom` of `top` things."""
    if not isinstance(top, int) or not isinstance(bottom, int) or not 0 <= bottom <= top <= MAX_FACTORIAL:
        raise Undefined
    return math.comb(top, bottom)


def modulo(left: Value, right: Value) -> Value:
    """The remainder of a division by a positive whole number; a fraction is a quotient of residues."""
    if not isinstance(right, int) or right < 1 or not isinstance(left, int | Fraction):
        raise Undefined
    if isinstance(left, Fraction):
        try:
            return left.numerator * pow(left.denominator, -1, right) % right
        except ValueError:  # the denominator has no inverse
            raise Undefined from None
    return left % right


def absolute(value: Value) -> Value:
    """The absolute value."""
    if isinstance(value, tuple):
        raise Undefined
    result: Value = abs(value)  # type: ignore[assignment]
    return result


def size(value: Value) -> float:
    """The absolute value as a float."""
    if isinstance(value, tuple):
        raise Undefined
    return float(abs(value))  # type: ignore[arg-type]


def whole(function: Callable[[float], int]) -> Callable[[Value], Value]:
    """Floor or ceiling as a function of a value."""

    def rounded(value: Value) -> Value:
        if isinstance(value, tuple | complex):
            raise Undefined
        return function(value)  # type: ignore[arg-type]

    return rounded


def whole_numbers(function: Callable[..., int]) -> Callable[[Value, Value], Value]:
    """gcd or lcm as a function of two values."""

    def of_integers(left: Value, right: Value) -> Value:
        if not isinstance(left, int) or not isinstance(right, int):
            raise Undefined
        return bounded(function(left, right))

    return of_integers


def on_floats(function: Callable[[float], float]) -> Callable[[Value], Value]:
    """A function of `math` as a function of a value."""

    def real(value: Value) -> Value:
        if isinstance(value, tuple | complex):
            raise Undefined
        try:
            return function(float(value))
        except ValueError:  # outside the domain
            raise Undefined from None

    return real


def unit_complex(angle: Value) -> Value:
    """The complex number of size 1 with an angle."""
    if isinstance(angle, tuple | complex):
        raise Undefined
    return complex(math.cos(angle), math.sin(angle))


def logarithm(value: Value, base: Value) -> Value:
    """The logarithm, exact if it is a whole number."""
    if isinstance(value, tuple | complex) or isinstance(base, tuple | complex) or value <= 0 or base <= 0 or base == 1:
        raise Undefined
    result = math.log(value) / math.log(base)
    near = round(result)
    if (
        isinstance(base, int | Fraction)
        and abs(near) < 200
        and abs(result - near) < 1e-9
        and power(base, near) == value
    ):
        return near
    return result


def _by_component(function: Callable[[Value, Value], Value], left: Value, right: Value) -> Value:
    if not isinstance(left, tuple) or not isinstance(right, tuple) or len(left) != len(right):
        raise Undefined
    return tuple([function(each, other) for each, other in zip(left, right, strict=True)])
