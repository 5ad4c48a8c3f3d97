r"""Expressions: parse clean LaTeX to SymPy with math-verify's parser, and compare two of them exactly.

Rationals are compared as rationals, other constants to about fifty digits, and functions at random points. This
is faster than simplification and does not round. math-verify's own comparison rounds to six digits, so that 1/1500!
equals 1/1502!. It decides only where numbers cannot: sums up to a symbol, and unknown functions.
"""

import random
import re
from functools import lru_cache
from typing import Any, Final

from algorithms.answers.structure import GROUPING, UnparsableAnswer, is_balanced

DIGITS: Final = 60
POINTS: Final = 4
TRIES: Final = 12
# cis and its argument: in brackets or braces, or up to the next term.
CIS: Final = re.compile(
    r"\\?cis(?![a-zA-Z])\s*(\((?:[^()]|\([^()]*\))*\)|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|[^-+(){}]+)"
)
FUNCTIONS: Final = r"\\(?:sin|cos|tan|cot|sec|csc|cis|arcsin|arccos|arctan)"


def same_expression(one: str, other: str) -> bool:
    """Whether two expressions, as clean LaTeX, are equal. Raises UnparsableAnswer."""
    one, other = (re.sub(r"\s+(?!\d)|(?<!\d)\s+", "", text) for text in (one, other))  # "1 1/2" is not "11/2"
    if one == other:
        return True
    if ":" in one or ":" in other:
        return _same_ratio(one, other)
    left, right = expression(one), expression(other)
    if left == right:
        return True
    if not left.free_symbols and not right.free_symbols:
        return _same_constant(left, right)
    if left.free_symbols != right.free_symbols and not (left.free_symbols & right.free_symbols):
        return False
    agree = _agree_numerically(left, right)
    if agree is None:
        from math_verify import verify

        return bool(
            verify([left], [right], float_rounding=12, numeric_precision=DIGITS, timeout_seconds=None)
            or verify([right], [left], float_rounding=12, numeric_precision=DIGITS, timeout_seconds=None)
        )
    return agree


def _same_ratio(one: str, other: str) -> bool:
    """Whether two ratios are proportional. A ratio of two is also their quotient."""
    parts, others = one.split(":"), other.split(":")
    if not all(part.strip() for part in [*parts, *others]):
        return False
    if len(parts) == 1 or len(others) == 1:
        (value,), ratio = (parts, others) if len(parts) == 1 else (others, parts)
        return len(ratio) == 2 and same_expression(value, rf"\frac{{{ratio[0]}}}{{{ratio[1]}}}")
    if len(parts) != len(others) or any(same_expression(part, "0") for part in (parts[0], others[0])):
        return parts == others
    return all(
        same_expression(f"({part})\\cdot({others[0]})", f"({other})\\cdot({parts[0]})")
        for part, other in zip(parts[1:], others[1:], strict=True)
    )


def _same_constant(left: Any, right: Any) -> bool:
    """Whether two constants are equal: rationals exactly, others to about DIGITS - 10 digits."""
    import sympy
    from sympy.core.function import AppliedUndef

    exact = (left - right).doit()
    if exact.is_Rational or exact.atoms(AppliedUndef):  # f(1) has no value
        return bool(exact == 0)
    values = [sympy.N(each, DIGITS) for each in (left, right)]
    if not all(value.is_number and value.is_finite for value in values):
        return bool(left == right)
    difference = sympy.N(exact, DIGITS, maxn=4 * DIGITS)
    return bool(abs(difference) <= max(map(abs, values)) * sympy.Float(10) ** (10 - DIGITS))


def _agree_numerically(left: Any, right: Any) -> bool | None:
    """Whether two functions agree at random points; None if they cannot be evaluated there."""
    values = list(_values_at_random_points(left, right))
    if len(values) < POINTS:
        return None
    return all(abs(a - b) <= 1e-25 * max(abs(a), abs(b), 1e-30) for a, b in values)


def constant_ratio(one: Any, other: Any) -> float | None:
    """The real ratio of two functions if it is constant and not zero, else None."""
    ratios = [a / b for a, b in _values_at_random_points(one, other) if abs(b) > 0]
    if len(ratios) < POINTS or abs(ratios[0]) == 0:
        return None
    if any(abs(ratio - ratios[0]) > 1e-20 * abs(ratios[0]) for ratio in ratios):
        return None
    return float(ratios[0].real) if abs(complex(ratios[0]).imag) < 1e-12 else None


def _values_at_random_points(left: Any, right: Any) -> Any:
    """Pairs of values at random points where both functions are defined."""
    import mpmath
    import sympy

    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    chooser = random.Random(0)
    found = 0
    with mpmath.workdps(40):
        try:
            functions = [sympy.lambdify(symbols, each, modules="mpmath") for each in (left, right)]
        except (TypeError, ValueError, KeyError, NotImplementedError, SyntaxError):
            return  # an unknown function such as f(1)
        for _ in range(TRIES):
            # The first points are positive. Later ones may be negative, so that |x| differs from x.
            point = [mpmath.mpf(chooser.uniform(0.3, 2.9)) * (-1 if found >= 2 and chooser.random() < 0.5 else 1)
                     for _ in symbols]  # fmt: skip
            try:
                values = [mpmath.mpmathify(function(*point)) for function in functions]
            except (ArithmeticError, ValueError, TypeError, NameError, AttributeError, KeyError, OverflowError):
                continue
            if all(mpmath.isfinite(value) for value in values):
                found += 1
                yield values
            if found == POINTS + 2:
                return


@lru_cache(maxsize=4096)
def has_symbols(latex: str) -> bool:
    """Whether an expression has variables. An unparsable expression has none."""
    try:
        return bool(expression(latex).free_symbols)
    except UnparsableAnswer:
        return False


@lru_cache(maxsize=4096)
def expression(latex: str) -> Any:
    """The SymPy expression of clean LaTeX. Raises UnparsableAnswer if the parser fails."""
    import sympy

    latex = latex.replace(GROUPING, "")
    latex = re.sub(r"(?<![\d._^])\d{1,3}(?: \d{3})+(?!\d)", lambda match: match[0].replace(" ", ""), latex)
    number = _parse_plain_number(latex)
    if number is not None:
        return number
    if not is_balanced(latex) or re.search(r"[¤€£¥«»]|\\ldots|(?<![\d_.^])\d[\d.]*\s+\d", latex):
        raise UnparsableAnswer(f"not an expression: {latex[:60]}")
    from latex2sympy2_extended import latex2sympy

    try:
        found = latex2sympy(_rewrite_for_parser(latex), normalization_config=None)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  the parser raises exceptions of many types
        raise UnparsableAnswer(f"cannot parse {latex[:60]}: {type(error).__name__}") from None
    if not isinstance(found, sympy.Expr):
        raise UnparsableAnswer(f"not an expression: {latex[:60]}")
    found = found.subs({sympy.Symbol("e"): sympy.E, sympy.Symbol("i"): sympy.I})
    # Decimals are exact: 0.1 is 1/10.
    return found.replace(lambda part: isinstance(part, sympy.Float), lambda part: sympy.Rational(str(part)))


def _parse_plain_number(latex: str) -> Any | None:
    """A plain number, read without the slow parser, or None. Most answers are plain numbers."""
    import sympy

    mixed = re.fullmatch(r"([-+]?)\s*(\d+)\s*(?:\\frac\{(\d+)\}\{(\d+)\}|\s(\d+)/(\d+))", latex.strip())
    if mixed and int(mixed[4] or mixed[6]):
        value = int(mixed[2]) + sympy.Rational(int(mixed[3] or mixed[5]), int(mixed[4] or mixed[6]))
        return -value if mixed[1] == "-" else value
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", latex)
    match = re.fullmatch(r"([-+]?)(\d+)?(?:\.(\d*)(?:\\(?:overline|bar)\{?(\d+)\}?)?)?", text)
    if match and (match[2] or match[3] or match[4]):
        whole, decimals, repeated = match[2] or "0", match[3] or "", match[4] or ""
        value = sympy.Rational(int(whole + decimals), 10 ** len(decimals))
        if repeated:
            value += sympy.Rational(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(decimals))
        return -value if match[1] == "-" else value
    match = re.fullmatch(r"([-+]?)(?:\\frac\{([-+]?\d+)\}\{([-+]?\d+)\}|(\d+)/(\d+))", text)
    if match:
        top, bottom = int(match[2] or match[4]), int(match[3] or match[5])
        if bottom == 0:
            raise UnparsableAnswer("division by zero")
        return sympy.Rational(top, bottom) * (-1 if match[1] == "-" else 1)
    return None


def _rewrite_for_parser(latex: str) -> str:
    """Rewrite LaTeX for math-verify's parser: explicit products, degrees as radians, a digit before a decimal point."""
    text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ", r"(\\frac{\1\\pi}{180})", latex)
    text = re.sub(r"(?<![\d.])\.(\d)", r"0.\1", text)
    text = re.sub(r"\^\s*(\\frac\{[^{}]*\}\{[^{}]*\})", r"^{\1}", text)
    text = re.sub(rf"({FUNCTIONS})\s*\^\s*\{{?\s*-1\s*\}}?", lambda match: match[1].replace("\\", "\\arc"), text)
    text = CIS.sub(r"(\\cos(\1)+i\\cdot\\sin(\1))", text)
    return text.replace("×", r"\times ").replace("*", r"\cdot ")
