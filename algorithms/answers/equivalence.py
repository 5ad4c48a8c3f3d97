r"""Whether two final answers are equal, as a careful mathematician who knows the question would judge.

This module compares structure: lists without order, tuples in order, intervals with their brackets, units, bases,
choices. `expressions` compares the leaves.

The relation is symmetric, and every answer equals itself. A missing answer equals nothing. The relation is not
transitive (5 cm = 5 = 5 m); the classes of `classes` are.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any, Final

from algorithms.answers.expressions import constant_ratio, expression, has_symbols, same_expression
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
from algorithms.answers.units import Unit, are_compatible, parse_unit

NAME: Final = re.compile(r"\\?[a-zA-Z]+'?(?:_\{?\w+\}?)?(?:\s*\(\s*\w+(?:\s*,\s*\w+)*\s*\))?")
SET_NAMES: Final = (r"\mathbb{R}", r"\mathbb{Z}", r"\mathbb{N}", r"\emptyset")
WORDS_FOR: Final = {"true": "yes", "false": "no"}
ANGLE: Final = (("angle", 1),)
CONSTANTS: Final = ("i", "e", r"\pi", r"\infty")


def equivalent(first: str, second: str) -> bool:
    """Whether two answers are equal. Raises UnparsableAnswer if the texts differ and an answer cannot be parsed."""
    if not first.strip() or not second.strip():
        return False
    if first.strip() == second.strip():
        return True
    # In "\\sqrt{68} \\approx 8.24", either side may be the answer.
    return any(same(one, other) for one in _readings(first) for other in _readings(second))


MIXED: Final = re.compile(
    r"(.*?\d)\s*(?:\\text\{\s*)?\band\b(?:\s*\})?\s*(\d+\s*/\s*\d+|\\[dt]?frac\{?\d\}?\{?\d+\}?)(.*)"
)


def _readings(answer: str) -> Iterator[Node]:
    """What an answer may mean: either side of "\\approx", and a mixed number or two values in "1 and 1/2"."""
    sides = re.split(r"\\approx(?![a-zA-Z])|≈", answer)
    for side in sides if all(is_balanced(side) for side in sides) else [answer]:
        node = parse_answer(side)
        if node is not None:
            yield node
    mixed = MIXED.fullmatch(answer.strip())
    if mixed:
        node = parse_answer(f"{mixed[1]} {mixed[2]}{mixed[3]}")
        if node is not None:
            yield node


def check_parsable(answer: str) -> None:
    """Raise UnparsableAnswer if an answer is missing or cannot be parsed, so that only the same text equals it."""
    node = parse_answer(answer)
    if node is None:
        raise UnparsableAnswer("the answer is missing")
    for leaf in _leaves_of(node):
        expression(leaf.latex)


def _leaves_of(node: object) -> Iterator[Leaf]:
    if isinstance(node, Leaf):
        if node.latex not in SET_NAMES and ":" not in node.latex:
            yield node
    elif isinstance(node, tuple):
        for part in node:
            yield from _leaves_of(part)
    elif is_dataclass(node):
        for place in fields(node):
            yield from _leaves_of(getattr(node, place.name))


def same(one: Node, other: Node) -> bool:
    """Whether two parsed answers are equal."""
    if one == other:
        return True
    for compare in COMPARATORS:
        verdict = compare(one, other)
        if verdict is None:
            verdict = compare(other, one)
        if verdict is not None:
            return verdict
    return False


# Each comparator handles one kind of node on the left. It returns None for a pair that it does not handle.


def _compare_choices(one: Node, other: Node) -> bool | None:
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


def _compare_quantities(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Quantity):
        return None
    if isinstance(other, Relation):
        return None
    if isinstance(other, Values):
        total = _total(other)
        return None if total is None else same(one, total)
    mine = parse_unit(one.unit)
    if isinstance(other, Quantity):
        theirs = parse_unit(other.unit)
        if not are_compatible(mine, theirs):
            return False
        is_converted = mine.dimensions == theirs.dimensions != () and (mine.size, mine.pi) != (theirs.size, theirs.pi)
        return same(_converted(one.value, mine, theirs) if is_converted else one.value, other.value)
    if one.unit.startswith("mod ") and _has_symbols(one.value):
        return False  # x modulo 2 is not x
    if mine.dimensions == ANGLE and not mine.pi and isinstance(other, Leaf) and r"\pi" in other.latex:
        return same(one, Quantity(other, "radians"))  # a number with pi is in radians
    return same(one.value, other)


def _has_symbols(node: Node) -> bool:
    return isinstance(node, Leaf) and has_symbols(node.latex)


def _converted(value: Node, unit: Unit, wanted: Unit) -> Node:
    """A value in another unit of the same dimensions."""
    if isinstance(value, Quantity):
        return replace(value, value=_converted(value.value, unit, wanted))
    if not isinstance(value, Leaf):
        return value
    factor = unit.size / wanted.size
    pi = rf"\pi^{{{wanted.pi - unit.pi}}}"
    return Leaf(rf"({value.latex})\cdot \frac{{{factor.numerator}}}{{{factor.denominator}}}\cdot {pi}")


def _total(values: Values) -> Quantity | None:
    """The sum of 2 hours and 30 minutes: quantities of one dimension, each smaller than a unit of the one before."""
    parts = [(item, parse_unit(item.unit)) for item in values.items if isinstance(item, Quantity)]
    if values.is_set or len(parts) < max(2, len(values.items)):
        return None
    for (_, larger), (_, smaller) in pairwise(parts):
        if (
            not (larger.dimensions == smaller.dimensions != ())
            or larger.size <= smaller.size
            or larger.pi
            or smaller.pi
        ):
            return None
    last, unit = parts[-1]
    terms = [_converted(item.value, own, unit) for item, own in parts]
    if not all(isinstance(term, Leaf) for term in terms):
        return None
    return Quantity(Leaf("+".join(f"({term.latex})" for term in terms if isinstance(term, Leaf))), last.unit)


def _compare_bases(one: Node, other: Node) -> bool | None:
    if not isinstance(one, BaseNumber):
        return None
    if isinstance(other, BaseNumber):
        return (one.digits, one.base) == (other.digits, other.base)
    return isinstance(other, Leaf | Words) and _text_of(other).lstrip("0").replace(" ", "") == one.digits


def _compare_clocks(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Clock):
        return None
    if isinstance(other, Leaf):
        if ":" in other.latex:  # a ratio after all
            return not one.half and same_expression(f"{one.hour}:{one.minute}", other.latex)
        return one.half != "" and one.minute == 0 and other.latex.strip() == str(one.hour)
    if not isinstance(other, Clock):
        return None if isinstance(other, Relation | Values | Choice) else False
    hours = [(clock.hour % 12 + 12 * (clock.half == "p")) if clock.half else clock.hour for clock in (one, other)]
    if not (one.half and other.half) and max(one.hour, other.hour) <= 12:
        hours = [one.hour, other.hour]
    return hours[0] == hours[1] and one.minute == other.minute


def _compare_relations(one: Node, other: Node) -> bool | None:
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
    return len(one.sides) == 2 == len(other.sides) and _are_proportional(one, other)


def _assignment(relation: Relation) -> tuple[str, Node] | None:
    """The name and the value in "x = 5", "f(x) = ...", "5 = x" or "(x, y) = (1, 2)"; None without a name."""
    if relation.operators != ("=",):
        return None
    left, right = relation.sides
    for name, value in ((left, right), (right, left)):
        if isinstance(name, Leaf) and NAME.fullmatch(name.latex) and name.latex not in CONSTANTS:
            if isinstance(value, Leaf) and len(name.latex) > 1 and name.latex in value.latex:
                return None  # tan x = x is an equation
            return name.latex.replace(" ", ""), value
        if isinstance(name, Words) and name is left:
            return name.text, value
        if isinstance(name, Sequence) and all(isinstance(item, Leaf) and item.latex.isalpha() for item in name.items):
            return "(" + ",".join(item.latex for item in name.items if isinstance(item, Leaf)) + ")", value
    return None


def _value_of(relation: Relation) -> Node | None:
    """The value that a relation assigns, from its "="; None for a general equation or an inequality."""
    if set(relation.operators) != {"="}:
        return None
    named = _assignment(relation)
    if named:
        return named[1]
    first, last = relation.sides[0], relation.sides[-1]
    if len(relation.sides) > 2 and isinstance(first, Leaf) and re.fullmatch(r"\\?[a-zA-Z]+(?:_\w)?", first.latex):
        return last
    if (
        len(relation.sides) == 2
        and isinstance(first, Leaf)
        and _is_about_points(first.latex)
        and not _has_symbols(last)
    ):
        return last
    # The value of a chain of equal constants is the last constant.
    if all(not isinstance(side, Leaf) or not has_symbols(side.latex) for side in relation.sides):
        return last
    return None


def _is_about_points(latex: str) -> bool:
    r"""Whether an expression is made of names of points and of their ratios: \frac{NO}{BO}, V_1:V_2, AB+BC."""
    bare = re.sub(r"\\(?:frac|angle|sin|cos|tan|cdot|overline|triangle|widehat)(?![a-zA-Z])", "", latex)
    has_points = re.search(r"[A-Z]{2}|[A-Z]_?\w?:|\\(?:angle|sin|cos|tan|triangle)", latex) is not None
    return has_points and re.fullmatch(r"[A-Z0-9_{}:/+\-\s()\[\]^'m]+", bare) is not None


def _are_proportional(one: Relation, other: Relation) -> bool:
    """Whether two equations or inequalities differ by a constant factor that fits the direction of their signs."""
    signs = [{"=": 0, r"\ne": 9, "<": 1, r"\le": 2, ">": -1, r"\ge": -2}[each.operators[0]] for each in (one, other)]
    if abs(signs[0]) != abs(signs[1]):
        return False
    try:
        differences = [_left_minus_right(each) for each in (one, other)]
    except UnparsableAnswer:
        return False
    if any(difference == 0 for difference in differences):
        return False
    ratio = constant_ratio(*differences)
    return ratio is not None and (signs[0] in (0, 9) or (ratio > 0) == (signs[0] == signs[1]))


def _left_minus_right(relation: Relation) -> Any:
    sides = [side.latex if isinstance(side, Leaf) else None for side in relation.sides]
    if None in sides:
        raise UnparsableAnswer("a side of the equation is not an expression")
    return expression(str(sides[0])) - expression(str(sides[1]))


def _compare_sets(one: Node, other: Node) -> bool | None:
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
    """A node as a SymPy set of real numbers; None if it is not such a set."""
    import sympy

    if isinstance(node, Sequence):
        if len(node.items) != 2 or not all(isinstance(item, Leaf) for item in node.items):
            return None
        ends = [expression(item.latex) for item in node.items if isinstance(item, Leaf)]
        if not all(end.is_extended_real for end in ends) or not ends[0] < ends[1]:
            return None  # a point, or no interval
        return sympy.Interval(ends[0], ends[1], node.opening == "(", node.closing == ")")
    if isinstance(node, SetOperation):
        parts = [_as_set(item) for item in node.items]
        if any(part is None for part in parts):
            return None
        if node.operator == r"\cup":
            return sympy.Union(*parts)
        if node.operator == ",":  # both conditions hold, or either if both cannot: x < -1, x > 4
            both = sympy.Intersection(*parts)
            return sympy.Union(*parts) if both == sympy.EmptySet else both
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
    """The real numbers that satisfy the relations in one variable; None if SymPy cannot solve them."""
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


def _compare_values(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Values):
        return None
    if isinstance(other, Values):
        mine, theirs = _total(one), _total(other)
        if mine is not None and theirs is not None:
            return same(mine, theirs)
        return _same_items(list(one.items), list(other.items))
    if isinstance(other, Sequence) and not one.is_set:
        named = [_assignment(item) for item in one.items if isinstance(item, Relation)]
        if len(named) == len(one.items) and all(named):  # x = 1, y = 2 as a point
            pairs = [pair for pair in named if pair]
            pairs = sorted(pairs, key=itemgetter(0)) if all(len(name) == 1 for name, _ in pairs) else pairs
            return same(Sequence(tuple(value for _, value in pairs), "(", ")"), other)
    if isinstance(other, Leaf) and other.latex == r"\emptyset":
        return not one.items
    if isinstance(other, Leaf) and GROUPING in other.latex:  # 81,256 may mean the list 81, 256
        parts = other.latex.split(GROUPING)
        if any(part.startswith("0") and part != "0" for part in parts):
            return False
        return _same_items(list(one.items), [Leaf(part) for part in parts])
    if one.is_set and len(one.items) == 1:
        return same(one.items[0], other)
    return False


def _same_items(items: list[Node], others: list[Node]) -> bool:
    """Whether the two lists pair up one to one, in any order: a perfect matching of the bipartite graph of equals."""
    if len(items) != len(others):
        return False
    equals = [[index for index, each in enumerate(others) if same(item, each)] for item in items]
    partner: dict[int, int] = {}  # index of `others` -> index of `items`

    def find(item: int, tried: set[int]) -> bool:
        for other in equals[item]:
            if other not in tried:
                tried.add(other)
                if other not in partner or find(partner[other], tried):
                    partner[other] = item
                    return True
        return False

    return all(equals[item] and find(item, set()) for item in range(len(items)))


def _compare_sequences(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Sequence):
        return None
    if isinstance(other, Sequence):
        return (
            (one.opening, one.closing) == (other.opening, other.closing)
            and len(one.items) == len(other.items)
            and all(same(left, right) for left, right in zip(one.items, other.items, strict=True))
        )
    return None if isinstance(other, Matrix) else False


def _compare_matrices(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Matrix):
        return None
    if isinstance(other, Sequence):
        if any(len(row) != 1 for row in one.rows) or (other.opening, other.closing) != ("(", ")"):
            return False
        other = Matrix(tuple((item,) for item in other.items))
    if not isinstance(other, Matrix) or [*map(len, one.rows)] != [*map(len, other.rows)]:
        return False
    cells = zip((cell for row in one.rows for cell in row), (cell for row in other.rows for cell in row), strict=True)
    return all(same(_times_factor(one.factor, cell), _times_factor(other.factor, partner)) for cell, partner in cells)


def _times_factor(factor: str, cell: Node) -> Node:
    return Leaf(f"({factor})\\cdot ({cell.latex})") if factor != "1" and isinstance(cell, Leaf) else cell


def _compare_words(one: Node, other: Node) -> bool | None:
    if not isinstance(one, Words):
        return None
    if not isinstance(other, Words | Leaf):
        return False
    text, other_text = (_without_punctuation(_text_of(each)) for each in (one, other))
    return text != "" and WORDS_FOR.get(text, text) == WORDS_FOR.get(other_text, other_text)


def _without_punctuation(text: str) -> str:
    return re.sub(r"[^\w\-+./^]", "", text.casefold()).strip(".")


def _compare_leaves(one: Node, other: Node) -> bool | None:
    if isinstance(one, Leaf) and isinstance(other, Leaf):
        return same_expression(one.latex, other.latex)
    return None


COMPARATORS: Final[tuple[Callable[[Node, Node], bool | None], ...]] = (
    _compare_choices, _compare_quantities, _compare_clocks, _compare_bases, _compare_relations, _compare_sets,
    _compare_values, _compare_matrices, _compare_sequences, _compare_words, _compare_leaves,
)  # fmt: skip
