r"""Whether two final answers are the same: what a careful mathematician would say who knows the question.

Structure is compared here (lists without order, tuples with it, intervals with their brackets, units, bases,
choices); expressions are parsed by math-verify's parser and compared exactly: rationals as rationals,
other constants to sixty digits, functions at random points, which is quicker than simplifying and never
rounds. math-verify's own comparison rounds to six digits, and 1/1500! is then 1/1502!; it decides where
numbers do not: sums to a symbol, unknown functions.

The relation is symmetric and every answer equals itself; a missing answer equals nothing. It is not
transitive (5 cm = 5 = 5 m): `classes` is.
"""

import random
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from algorithms.answers.structure import (
    GROUPING,
    BaseNumber,
    Choice,
    Clock,
    Leaf,
    Matrix,
    Node,
    Quantity,
    Relation,
    Sequence,
    SetOperation,
    UnparsableAnswer,
    Values,
    Words,
    is_balanced,
    parse_answer,
)  # fmt: skip

DIGITS: Final = 60
POINTS: Final = 4
TRIES: Final = 12
# Units that can be told from each other: what they measure, and how many of its base units they are.
UNITS: Final[dict[str, tuple[str, float]]] = {
    **dict.fromkeys(("mm", "millimeter", "millimeters"), ("length", 0.001)),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), ("length", 0.01)),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), ("length", 1.0)),
    **dict.fromkeys(("km", "kilometer", "kilometers"), ("length", 1000.0)),
    **dict.fromkeys(("in", "inch", "inches"), ("length", 0.0254)),
    **dict.fromkeys(("ft", "foot", "feet"), ("length", 0.3048)),
    **dict.fromkeys(("yd", "yard", "yards"), ("length", 0.9144)),
    **dict.fromkeys(("mi", "mile", "miles"), ("length", 1609.344)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("time", 1.0)),
    **dict.fromkeys(("min", "minute", "minutes"), ("time", 60.0)),
    **dict.fromkeys(("h", "hr", "hour", "hours"), ("time", 3600.0)),
    **dict.fromkeys(("day", "days"), ("time", 86400.0)),
    **dict.fromkeys(("week", "weeks"), ("time", 604800.0)),
    **dict.fromkeys(("g", "gram", "grams"), ("mass", 1.0)),
    **dict.fromkeys(("kg", "kilogram", "kilograms"), ("mass", 1000.0)),
    **dict.fromkeys(("dollar", "dollars"), ("money", 100.0)),
    **dict.fromkeys(("cent", "cents"), ("money", 1.0)),
    **dict.fromkeys(("degree", "degrees"), ("angle in degrees", 1.0)),
    **dict.fromkeys(("rad", "radian", "radians"), ("angle in radians", 1.0)),
}
NAME: Final = re.compile(r"\\?[a-zA-Z]+'?(?:_\{?\w+\}?)?(?:\s*\(\s*\w+(?:\s*,\s*\w+)*\s*\))?")
CONSTANTS: Final = ("i", "e", r"\pi", r"\infty")
FUNCTIONS: Final = r"\\(?:sin|cos|tan|cot|sec|csc|cis|arcsin|arccos|arctan)"


def equivalent(first: str, second: str) -> bool:
    """Whether two answers are the same. Raises UnparsableAnswer where one is nothing that can be compared."""
    if not first.strip() or not second.strip():
        return False
    if first.strip() == second.strip():
        return True
    one, other = parse_answer(first), parse_answer(second)
    return one is not None and other is not None and same(one, other)


def check_parsable(answer: str) -> None:
    """Raise UnparsableAnswer for an answer that nothing but the same text can equal."""
    node = parse_answer(answer)
    if node is None:
        raise UnparsableAnswer("a missing answer")
    if isinstance(node, Leaf):
        expression(node.latex)


def same(one: Node, other: Node) -> bool:
    """Whether two parsed answers are the same."""
    if one == other:
        return True
    for compare in COMPARISONS:
        verdict = compare(one, other)
        if verdict is None:
            verdict = compare(other, one)
        if verdict is not None:
            return verdict
    return False


# Each looks at one kind of thing on its left side. None: this pair is not for it.


def _choices(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Choice):
        return None
    if isinstance(other, Choice):
        if one.letter != other.letter:
            return False
        return one.chosen is None or other.chosen is None or same(one.chosen, other.chosen)
    if one.chosen is not None:
        return same(one.chosen, other)
    if isinstance(other, Values):
        return None
    return isinstance(other, Leaf | Words) and _text_of(other) == one.letter


def _text_of(node: Leaf | Words) -> str:
    return node.latex if isinstance(node, Leaf) else node.text.upper()


def _quantities(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Quantity):
        return None
    if not isinstance(other, Quantity):
        return None if isinstance(other, Values | Relation) else same(one.value, other)
    (kind, size), (other_kind, other_size) = _measure(one.unit), _measure(other.unit)
    if kind and other_kind and kind != other_kind:
        return False
    if kind and kind == other_kind and size != other_size:
        return same(_scaled(one.value, size / other_size), other.value)
    return same(one.value, other.value)


def _measure(unit: str) -> tuple[str, float]:
    """What a unit measures, "" if that is not known, and its size."""
    if unit == "%" or unit.startswith("mod "):
        return unit, 1.0
    match = re.fullmatch(r"(square |cubic )?([a-z]+?)\s*([23])?", unit.replace(".", ""))
    if match is None or match[2] not in UNITS:
        return "", 1.0
    kind, size = UNITS[match[2]]
    power = {"square ": 2, "cubic ": 3}.get(match[1] or "", int(match[3] or 1))
    return (f"{kind}^{power}", size**power) if power > 1 else (kind, size)


def _scaled(value: Node, factor: float) -> Node:
    exact = f"{factor:.12g}" if factor >= 1 else f"\\frac{{1}}{{{1 / factor:.12g}}}"
    return Leaf(f"({value.latex})\\cdot {exact}") if isinstance(value, Leaf) else value


def _bases(one: Node, other: Node) -> bool | None:
    if not isinstance(one, BaseNumber):
        return None
    if isinstance(other, BaseNumber):
        return (one.digits, one.base) == (other.digits, other.base)
    return isinstance(other, Leaf | Words) and _text_of(other).lstrip("0").replace(" ", "") == one.digits


def _clocks(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Clock):
        return None
    if not isinstance(other, Clock):
        return None if isinstance(other, Leaf) else False
    hours = [(clock.hour % 12 + 12 * (clock.half == "p")) if clock.half else clock.hour for clock in (one, other)]
    if not (one.half and other.half) and max(one.hour, other.hour) <= 12:
        hours = [one.hour, other.hour]
    return hours[0] == hours[1] and one.minute == other.minute


def _relations(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Relation):
        return None
    if isinstance(other, Relation):
        return _same_relation(one, other)
    value = _value_of(one)
    if value is not None:
        return same(value, other)
    return None if _describes_set(other) or isinstance(other, Sequence) else False


def _same_relation(one: Relation, other: Relation) -> bool:
    named, other_named = _assignment(one), _assignment(other)
    if named and other_named and named[0] == other_named[0] and same(named[1], other_named[1]):
        return True
    values = [_value_of(each) for each in (one, other)]
    if values[0] is not None and values[1] is not None and not (named and other_named):
        return same(values[0], values[1])
    if named and other_named and any(not isinstance(node[1], Leaf) for node in (named, other_named)):
        return named[0] == other_named[0] and same(named[1], other_named[1])
    if len(one.sides) != 2 or len(other.sides) != 2 or "=" not in one.operators + other.operators:
        sets = _as_set(one), _as_set(other)
        if sets[0] is not None and sets[1] is not None:
            return _same_set(*sets)
    return len(one.sides) == 2 == len(other.sides) and _proportional(one, other)


def _assignment(relation: Relation) -> tuple[str, Node] | None:
    """The name and the value of "x = 5", "f(x) = ...", "5 = x", "(x, y) = (1, 2)"."""
    if relation.operators != ("=",):
        return None
    left, right = relation.sides
    for name, value in ((left, right), (right, left)):
        if isinstance(name, Leaf) and NAME.fullmatch(name.latex) and name.latex not in CONSTANTS:
            return name.latex.replace(" ", ""), value
        if isinstance(name, Words) and name is left:
            return name.text, value
        if isinstance(name, Sequence) and all(isinstance(item, Leaf) and item.latex.isalpha() for item in name.items):
            return "(" + ",".join(item.latex for item in name.items if isinstance(item, Leaf)) + ")", value
    return None


def _value_of(relation: Relation) -> Node | None:
    """What a relation says about one thing: the value behind its "="; None if it is an equation of several."""
    if set(relation.operators) != {"="}:
        return None
    named = _assignment(relation)
    if named:
        return named[1]
    first, last = relation.sides[0], relation.sides[-1]
    if len(relation.sides) > 2 and isinstance(first, Leaf) and re.fullmatch(r"\\?[a-zA-Z]+(?:_\w)?", first.latex):
        return last
    # A chain of equal constants is its last one.
    if all(not isinstance(side, Leaf) or not _symbols(side.latex) for side in relation.sides):
        return last
    return None


def _proportional(one: Relation, other: Relation) -> bool:
    """Whether two equations or inequalities are one times a constant, which may not turn the sign around."""
    signs = [{"=": 0, r"\ne": 9, "<": 1, r"\le": 2, ">": -1, r"\ge": -2}[each.operators[0]] for each in (one, other)]
    if abs(signs[0]) != abs(signs[1]):
        return False
    try:
        differences = [_difference(each) for each in (one, other)]
    except UnparsableAnswer:
        return False
    if any(difference == 0 for difference in differences):
        return False
    ratio = _constant_ratio(*differences)
    return ratio is not None and (signs[0] in (0, 9) or (ratio > 0) == (signs[0] == signs[1]))


def _difference(relation: Relation) -> Any:
    sides = [side.latex if isinstance(side, Leaf) else None for side in relation.sides]
    if None in sides:
        raise UnparsableAnswer("a side of an equation that is no expression")
    return expression(str(sides[0])) - expression(str(sides[1]))


def _sets(one: Node, other: Node) -> bool | None:
    if not _describes_set(one):
        return None
    if not (_describes_set(other) or isinstance(other, Sequence | Values)):
        return False if isinstance(one, Leaf) and isinstance(other, Leaf) else None
    sets = _as_set(one), _as_set(other)
    return None if sets[0] is None or sets[1] is None else _same_set(*sets)


def _describes_set(node: Node) -> bool:
    if isinstance(node, Relation):
        return "=" not in node.operators
    if isinstance(node, Sequence):
        return len(node.items) == 2 and ("[" in node.opening or "]" in node.closing or any(
            isinstance(item, Leaf) and r"\infty" in item.latex for item in node.items))  # fmt: skip
    if isinstance(node, Leaf):
        return node.latex.startswith((r"\mathbb{", r"\emptyset"))
    return isinstance(node, SetOperation)


def _same_set(one: Any, other: Any) -> bool:
    import sympy

    return bool(one == other) or one.symmetric_difference(other) == sympy.EmptySet


def _as_set(node: Node) -> Any | None:
    """A set of real numbers as SymPy's; None where the node is none."""
    import sympy

    if isinstance(node, Sequence):
        if len(node.items) != 2 or not all(isinstance(item, Leaf) for item in node.items):
            return None
        ends = [expression(item.latex) for item in node.items if isinstance(item, Leaf)]
        if not all(end.is_extended_real for end in ends):
            return None
        return sympy.Interval(ends[0], ends[1], node.opening == "(", node.closing == ")")
    if isinstance(node, SetOperation):
        parts = [_as_set(item) for item in node.items]
        if any(part is None for part in parts):
            return None
        if node.operator == r"\cup":
            return sympy.Union(*parts)
        return sympy.Intersection(*parts) if node.operator == r"\cap" else sympy.Complement(parts[0], parts[1])
    if isinstance(node, Values):
        if not all(isinstance(item, Leaf) for item in node.items):
            return None
        return sympy.FiniteSet(*(expression(item.latex) for item in node.items if isinstance(item, Leaf)))
    if isinstance(node, Relation):
        return _solutions(node)
    if isinstance(node, Leaf):
        named = {r"\mathbb{R}": sympy.Reals, r"\mathbb{Z}": sympy.Integers, r"\mathbb{N}": sympy.Naturals}
        return {**named, r"\emptyset": sympy.EmptySet}.get(node.latex.replace(" ", ""))
    return None


def _solutions(relation: Relation) -> Any | None:
    """The real numbers that satisfy inequalities in one variable."""
    import sympy

    if not all(isinstance(side, Leaf) for side in relation.sides):
        return None
    sides = [expression(side.latex) for side in relation.sides if isinstance(side, Leaf)]
    symbols = set().union(*(side.free_symbols for side in sides))
    if len(symbols) != 1:
        return None
    variable = sympy.Symbol("x", real=True)
    sides = [side.subs(symbols.copy().pop(), variable) for side in sides]
    kinds = {"=": sympy.Eq, "<": sympy.Lt, r"\le": sympy.Le, ">": sympy.Gt, r"\ge": sympy.Ge, r"\ne": sympy.Ne}
    found: Any = sympy.Reals
    for left, right, operator in zip(sides[:-1], sides[1:], relation.operators, strict=True):
        try:
            found = found.intersect(kinds[operator](left, right).as_set())
        except (NotImplementedError, TypeError, ValueError, AttributeError):
            return None
    return found


def _values(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Values):
        return None
    if isinstance(other, Values):
        return _same_items(list(one.items), list(other.items))
    if isinstance(other, Leaf) and other.latex == r"\emptyset":
        return not one.items
    if isinstance(other, Leaf) and GROUPING in other.latex:  # 81,256 may have been meant as 81, 256
        return _same_items(list(one.items), [Leaf(part) for part in other.latex.split(GROUPING)])
    if one.is_set and len(one.items) == 1:
        return same(one.items[0], other)
    return False


def _same_items(items: list[Node], others: list[Node]) -> bool:
    """Whether each item has a partner of its own among the others, in any order."""
    if len(items) != len(others):
        return False
    for item in items:
        partner = next((index for index, each in enumerate(others) if same(item, each)), None)
        if partner is None:
            return False
        del others[partner]
    return True


def _sequences(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Sequence):
        return None
    if isinstance(other, Sequence):
        return (
            (one.opening, one.closing) == (other.opening, other.closing)
            and len(one.items) == len(other.items)
            and all(same(left, right) for left, right in zip(one.items, other.items, strict=True))
        )
    return None if isinstance(other, Matrix) else False


def _matrices(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Matrix):
        return None
    if isinstance(other, Sequence):
        if any(len(row) != 1 for row in one.rows) or (other.opening, other.closing) != ("(", ")"):
            return False
        other = Matrix(tuple((item,) for item in other.items))
    if not isinstance(other, Matrix) or [*map(len, one.rows)] != [*map(len, other.rows)]:
        return False
    cells = zip((cell for row in one.rows for cell in row), (cell for row in other.rows for cell in row), strict=True)
    return all(same(_times(one.factor, cell), _times(other.factor, partner)) for cell, partner in cells)


def _times(factor: str, cell: Node) -> Node:
    return Leaf(f"({factor})\\cdot ({cell.latex})") if factor != "1" and isinstance(cell, Leaf) else cell


def _words(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Words):
        return None
    return isinstance(other, Words | Leaf) and _plain(_text_of(one)) == _plain(_text_of(other).upper())


def _plain(text: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", text)


def _leaves(one: Node, other: Node) -> bool | None:
    if isinstance(one, Leaf) and isinstance(other, Leaf):
        return _same_expression(one.latex, other.latex)
    return None


COMPARISONS: Final[tuple[Callable[[Node, Node], bool | None], ...]] = (
    _choices, _quantities, _clocks, _bases, _relations, _sets, _values, _matrices, _sequences, _words, _leaves,
)  # fmt: skip


def _same_expression(one: str, other: str) -> bool:
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
    agree = _agree(left, right)
    if agree is None:
        from math_verify import verify

        return bool(
            verify([left], [right], float_rounding=12, numeric_precision=DIGITS, timeout_seconds=None)
            or verify([right], [left], float_rounding=12, numeric_precision=DIGITS, timeout_seconds=None)
        )
    return agree


def _same_ratio(one: str, other: str) -> bool:
    parts, others = one.split(":"), other.split(":")
    return len(parts) == len(others) and all(
        _same_expression(left, right) for left, right in zip(parts, others, strict=True)
    )


def _same_constant(left: Any, right: Any) -> bool:
    """Whether two constants are equal: rationals exactly, others to many digits."""
    import sympy
    from sympy.core.function import AppliedUndef

    exact = (left - right).doit()
    if exact.is_Rational or exact.atoms(AppliedUndef):  # f(1) has no value
        return bool(exact == 0)
    difference = sympy.N(exact, DIGITS, maxn=4 * DIGITS)
    size = max(abs(sympy.N(left, 15)), abs(sympy.N(right, 15)))
    if not difference.is_number or not size.is_finite or difference is sympy.nan:
        return bool(left == right)
    return bool(abs(difference) <= size * sympy.Float(10) ** (10 - DIGITS))


def _agree(left: Any, right: Any) -> bool | None:
    """Whether two functions agree at random points; None where they cannot be evaluated."""
    values = list(_evaluated(left, right))
    if len(values) < POINTS:
        return None
    return all(abs(a - b) <= 1e-25 * max(abs(a), abs(b), 1e-30) for a, b in values)


def _constant_ratio(one: Any, other: Any) -> float | None:
    """The factor between two functions, if it is the same everywhere."""
    ratios = [a / b for a, b in _evaluated(one, other) if abs(b) > 0]
    if len(ratios) < POINTS or abs(ratios[0]) == 0:
        return None
    if any(abs(ratio - ratios[0]) > 1e-20 * abs(ratios[0]) for ratio in ratios):
        return None
    return float(ratios[0].real) if abs(complex(ratios[0]).imag) < 1e-12 else None


def _evaluated(left: Any, right: Any) -> Any:
    """Pairs of values at random points, where both are defined."""
    import mpmath
    import sympy

    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    chooser = random.Random(0)
    found = 0
    with mpmath.workdps(40):
        try:
            functions = [sympy.lambdify(symbols, each, modules="mpmath") for each in (left, right)]
        except (TypeError, ValueError, NotImplementedError, SyntaxError):
            return  # an unknown function, f(1)
        for _ in range(TRIES):
            # Negative points too, so that |x| is not taken for x; the first ones are positive.
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
def _symbols(latex: str) -> bool:
    """Whether an expression has variables; one that cannot be read has none."""
    try:
        return bool(expression(latex).free_symbols)
    except UnparsableAnswer:
        return False


@lru_cache(maxsize=4096)
def expression(latex: str) -> Any:
    """The SymPy expression of clean LaTeX. Raises UnparsableAnswer."""
    import sympy

    latex = latex.replace(GROUPING, "")
    number = _number(latex)
    if number is not None:
        return number
    if not is_balanced(latex) or re.search(r"[¤«»]|\\ldots", latex):
        raise UnparsableAnswer(f"not an expression: {latex[:60]}")
    from latex2sympy2_extended import latex2sympy

    try:
        found = latex2sympy(_for_parser(latex), normalization_config=None)
    except Exception as error:  # noqa: BLE001  the parser fails in every way there is
        raise UnparsableAnswer(f"{latex[:60]}: {type(error).__name__}") from None
    if not isinstance(found, sympy.Expr):
        raise UnparsableAnswer(f"not an expression: {latex[:60]}")
    found = found.subs({sympy.Symbol("e"): sympy.E, sympy.Symbol("i"): sympy.I})
    # Decimals are exact: 0.1 is a tenth.
    return found.replace(lambda part: isinstance(part, sympy.Float), lambda part: sympy.Rational(str(part)))


def _number(latex: str) -> Any | None:
    """A plain number, read without the parser: most answers are one."""
    import sympy

    mixed = re.fullmatch(r"([-+]?)\s*(\d+)\s*(?:\\frac\{(\d+)\}\{(\d+)\}|\s(\d+)/(\d+))", latex.strip())
    if mixed and int(mixed[4] or mixed[6]):
        value = int(mixed[2]) + sympy.Rational(int(mixed[3] or mixed[5]), int(mixed[4] or mixed[6]))
        return -value if mixed[1] == "-" else value
    text = latex.replace(" ", "")
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


def _for_parser(latex: str) -> str:
    """What math-verify's parser reads well: explicit products, degrees in radians, repeating decimals."""
    text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ", r"(\\frac{\1\\pi}{180})", latex)
    text = re.sub(r"(?<![\d.])\.(\d)", r"0.\1", text)
    text = re.sub(r"\^\s*(\\frac\{[^{}]*\}\{[^{}]*\})", r"^{\1}", text)
    text = re.sub(rf"({FUNCTIONS})\s*\^\s*\{{?\s*-1\s*\}}?", lambda match: match[1].replace("\\", "\\arc"), text)
    text = text.replace(r"\cis", r"\operatorname{cis}")
    return text.replace("×", r"\times ").replace("*", r"\cdot ")
