r"""What a question demands of the form of its answer, so that another form of the same value is wrong.

"List them from least to greatest": the same values in another order are wrong. "Factor completely": the
same polynomial expanded, or with a factor that factors further, is wrong; "expand": the same polynomial as a product.
A "lowest terms", "rationalize the denominator", "a single fraction": another form of the right value is neither
right nor wrong. A demand counts only where the gold answer meets it; without one 2/4 is 1/2.
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
    """`ordered`: lists keep their order. `form`: what a polynomial must look like. `tidy`: what holds of the text."""

    ordered: bool = False
    form: Literal["factored", "expanded"] | None = None
    tidy: tuple[Callable[[str], bool], ...] = ()


def demand_of(question: str) -> Demand:
    """What a question demands."""
    form: Literal["factored", "expanded"] | None = None
    if FACTOR.search(question):
        form = "factored"
    elif EXPAND.search(question):
        form = "expanded"
    tidy = tuple(holds for pattern, holds in TIDY if re.search(pattern, question, re.IGNORECASE))
    return Demand(ORDER.search(question) is not None, form, tidy)


def meets(demand: Demand, gold: str, answer: str) -> bool:
    """Whether an answer that equals the gold one also has the form that is demanded, as far as the gold one has."""
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
    """Whether an answer that equals the gold one is worked out as far as is demanded, and as the gold one is."""
    answer = answer.rsplit("=", 1)[-1]  # 2/16 = 1/8 ends reduced
    one, other = clean(gold), clean(answer)
    return all(holds(other) or not holds(one) for holds in demand.tidy)


def _is_reduced(latex: str) -> bool:
    """No fraction of integers can be reduced, no root of an integer has a square factor."""
    for match in FRACTION.finditer(latex):
        top, bottom = int(match[1] or match[3]), int(match[2] or match[4])
        if math.gcd(top, bottom) != 1 or bottom == 1:
            return False
    return all(_is_squarefree(int(match[1])) for match in ROOT.finditer(latex) if len(match[1]) < 12)


def _is_squarefree(number: int) -> bool:
    return number > 1 and all(number % (root * root) for root in range(2, math.isqrt(number) + 1))


def _is_rationalized(latex: str) -> bool:
    """No root in or over a denominator."""
    return re.search(r"\}\s*\{[^{}]*\\sqrt|/\s*\(?\s*\d*\s*\\sqrt|\\sqrt\s*\{[^{}]*(?:\\frac|/)", latex) is None


def _is_one(latex: str) -> bool:
    """One fraction, nothing added to it."""
    return re.search(r"(?<=[^\s({^])\s*[-+]", re.sub(r"\{(?:[^{}]|\{[^{}]*\})*\}", "G", latex)) is None


def _is_mixed(latex: str) -> bool:
    """A whole number with a fraction behind it."""
    return re.search(r"\d\s*\\frac|\d\s+\d+\s*/", latex) is not None


def _has_no_decimals(latex: str) -> bool:
    return re.search(r"\d?\.\d", latex) is None


def _has_no_fractions(latex: str) -> bool:
    return re.search(r"\\frac|/", latex) is None


def _has_no_bars(latex: str) -> bool:
    return re.search(r"\||\\vert|\\lvert", latex) is None


# What a question says of the form of numbers -> what then holds of the answer as clean LaTeX. A common fraction
# has lowest terms by the rules of the contests that ask for one.
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
    (r"\bsingle (?:\w+ )?fraction\b", _is_one),
    (r"\bwithout (?:any |using )?absolute value\b", _has_no_bars),
)


def _polynomial(node: Node | None) -> str | None:
    """The last side of "f = ...", the text of a choice, an expression, if it has variables."""
    if isinstance(node, Relation) and set(node.operators) == {"="}:
        node = node.sides[-1]
    if isinstance(node, Choice):
        node = node.chosen
    return node.latex if isinstance(node, Leaf) and expression(node.latex).free_symbols else None


def _is_expanded(latex: str) -> bool:
    """No sum in parentheses is left."""
    return not any(re.search(r"\S\s*[-+]", group) for group in _groups(latex)[0])


def _is_factored(latex: str) -> bool:
    """A product outside of all brackets, of which no factor factors further over the rationals."""
    groups, outside = _groups(latex)
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


def _groups(latex: str) -> tuple[list[str], str]:
    """What the outermost parentheses hold, and the text with them left out."""
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
