r"""The form that a question demands of its answer.

Some demands make another form of the right value wrong. "List them from least to greatest" rejects another
order. "Factor completely" rejects an expanded polynomial and a factor that still factors. "Expand" rejects a
product. Other demands, such as "lowest terms", "rationalize the denominator" or "a single fraction", leave another
form ungraded: neither right nor wrong. A demand applies only if the gold answer meets it. Without a demand, 2/4
equals 1/2.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from algorithms.answers.cleaning import clean
from algorithms.answers.equivalence import same
from algorithms.answers.expressions import expression
from algorithms.answers.structure import TOKEN, Choice, Leaf, Node, Relation, Values, parse_answer

ORDER: Final = re.compile(
    r"\b(?:least|smallest|lowest|shortest|greatest|largest|highest|biggest|longest)\s+to\s+(?:the\s+)?"
    r"(?:least|smallest|lowest|shortest|greatest|largest|highest|biggest|longest)\b"
    r"|\b(?:increasing|decreasing|ascending|descending|alphabetical|chronological)\s+order\b|\border\s+of\b|\bin\s+that\s+order\b",
    re.IGNORECASE,
)
FACTOR: Final = re.compile(
    r"(?:^|[.,:]\s*|\bfully |\bcompletely )factor(?:ize)?\b|\bfactored form\b|\bfactorization of \$.*[a-z]",
    re.IGNORECASE,
)
EXPAND: Final = re.compile(r"(?:^|[.,:]\s*)(?:expand|multiply out)\b|\bexpanded form\b|\bexpand the\b", re.IGNORECASE)
INTEGER: Final = r"\s*[-+]?\s*(\d+)\s*"
FRACTION: Final = re.compile(rf"\\frac\s*\{{{INTEGER}\}}\s*\{{{INTEGER}\}}|(\d+)\s*/\s*(\d+)")
ROOT: Final = re.compile(r"\\sqrt\s*\{\s*(\d+)\s*\}")


@dataclass(frozen=True, slots=True)
class Demand:
    """`ordered`: lists keep their order. `form`: the form of a polynomial. `tidy`: conditions on the answer's text."""

    ordered: bool = False
    form: Literal["factored", "expanded"] | None = None
    tidy: tuple[Callable[[str], bool], ...] = ()


def demand_of(question: str) -> Demand:
    """The demands in a question's text."""
    form: Literal["factored", "expanded"] | None = None
    if FACTOR.search(question):
        form = "factored"
    elif EXPAND.search(question):
        form = "expanded"
    tidy = tuple(holds for pattern, holds in TIDY if re.search(pattern, question, re.IGNORECASE))
    return Demand(ORDER.search(question) is not None, form, tidy)


def meets(demand: Demand, gold: str, answer: str) -> bool:
    """Whether an answer equal to the gold answer has the demanded order and form, if the gold answer has them."""
    one, other = parse_answer(gold), parse_answer(answer)
    if demand.ordered and isinstance(one, Values) and isinstance(other, Values) and not (one.is_set or other.is_set):
        return len(one.items) == len(other.items) and all(map(same, one.items, other.items))
    if demand.form is None:
        return True
    polynomial, answered = _polynomial(one), _polynomial(other)
    if polynomial is None or answered is None:
        return True
    has_form = _is_factored if demand.form == "factored" else _is_expanded
    return has_form(answered) or not has_form(polynomial)


def is_tidy(demand: Demand, gold: str, answer: str) -> bool:
    """Whether an answer equal to the gold answer meets each `tidy` condition that the gold answer meets."""
    answer = answer.rsplit("=", 1)[-1]  # 2/16 = 1/8 counts as reduced
    one, other = clean(gold), clean(answer)
    return all(holds(other) or not holds(one) for holds in demand.tidy)


def _is_reduced(latex: str) -> bool:
    """Every fraction of integers is reduced, and no integer under a root has a square factor."""
    for match in FRACTION.finditer(latex):
        top, bottom = int(match[1] or match[3]), int(match[2] or match[4])
        if math.gcd(top, bottom) != 1 or bottom == 1:
            return False
    return all(_is_squarefree(int(match[1])) for match in ROOT.finditer(latex) if len(match[1]) < 12)


def _is_squarefree(number: int) -> bool:
    return number > 1 and all(number % (root * root) for root in range(2, math.isqrt(number) + 1))


def _is_rationalized(latex: str) -> bool:
    """No root in a denominator, and no fraction under a root."""
    return re.search(r"\}\s*\{[^{}]*\\sqrt|/\s*\(?\s*\d*\s*\\sqrt|\\sqrt\s*\{[^{}]*(?:\\frac|/)", latex) is None


def _is_single_fraction(latex: str) -> bool:
    """A single fraction, with nothing added to it."""
    return re.search(r"(?<=[^\s({^])\s*[-+]", re.sub(r"\{(?:[^{}]|\{[^{}]*\})*\}", "G", latex)) is None


def _is_mixed(latex: str) -> bool:
    """A whole number followed by a fraction."""
    return re.search(r"\d\s*\\frac|\d\s+\d+\s*/", latex) is not None


def _has_no_decimals(latex: str) -> bool:
    return re.search(r"\d?\.\d", latex) is None


def _has_no_fractions(latex: str) -> bool:
    return re.search(r"\\frac|/", latex) is None


def _has_no_bars(latex: str) -> bool:
    return re.search(r"\||\\vert|\\lvert", latex) is None


# Wording in a question -> the condition on the answer as clean LaTeX. A common fraction is in lowest terms by the
# rules of the contests that ask for one.
TIDY: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    (
        r"\b(?:lowest terms|simplest (?:\w+ )?form|reduced (?:\w+ )?(?:fraction|form)|common fraction|simplify"
        r"|simplified (?:\w+ )?(?:fraction|form))\b",
        _is_reduced,
    ),
    (r"\bcommon fraction\b", _has_no_decimals),
    (r"\bmixed number\b", _is_mixed),
    (r"\bas a (?:\w+ )?decimal\b|\bin decimal form\b", _has_no_fractions),
    (r"\brationaliz(?:e|ed|ing)\b|\brational denominator\b", _is_rationalized),
    (r"\bsingle (?:\w+ )?fraction\b", _is_single_fraction),
    (r"\bwithout (?:any |using )?absolute value\b", _has_no_bars),
)


def _polynomial(node: Node | None) -> str | None:
    """The expression if it has variables: of a leaf, of the last side of "f = ...", or of a choice."""
    if isinstance(node, Relation) and set(node.operators) == {"="}:
        node = node.sides[-1]
    if isinstance(node, Choice):
        node = node.chosen
    return node.latex if isinstance(node, Leaf) and expression(node.latex).free_symbols else None


def _is_expanded(latex: str) -> bool:
    """No sum in parentheses remains."""
    return not any(re.search(r"\S\s*[-+]", group) for group in _bracket_groups(latex)[0])


def _is_factored(latex: str) -> bool:
    """No sum outside brackets, and no factor that still factors over the rationals."""
    groups, outside = _bracket_groups(latex)
    if re.search(r"(?<=[^\s^{(])\s*[-+]", outside.strip().lstrip("+-").strip()):
        return False
    return all(_is_irreducible(group) for group in groups)


def _is_irreducible(group: str) -> bool:
    import sympy

    found = expression(group)
    if not found.free_symbols or not found.is_polynomial():
        return True
    content, factors = sympy.factor_list(found)
    return bool(abs(content) == 1) and sum(power for _, power in factors) == 1


def _bracket_groups(latex: str) -> tuple[list[str], str]:
    """The contents of the outermost brackets, and the text with "G" in place of each group."""
    groups, outside, inside, depth = [], "", "", 0
    for match in TOKEN.finditer(latex):
        token = match[0]
        if token in "([":
            depth += 1
            inside = "" if depth == 1 else inside + token
        elif token in ")]" and depth:
            depth -= 1
            if depth == 0:
                groups.append(inside)
                outside += "G"
            else:
                inside += token
        elif depth:
            inside += token
        else:
            outside += token
    return groups, outside
