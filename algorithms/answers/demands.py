r"""What a question demands of the form of its answer, so that another form of the same value is wrong.

"List them from least to greatest": the same values in another order are wrong. "Factor completely": the
same polynomial expanded, or with a factor that factors further, is wrong; "expand": the same polynomial as a product.
A demand counts only where the gold answer meets it. Unreduced fractions and roots are right: their value is.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

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


@dataclass(frozen=True, slots=True)
class Demand:
    """`ordered`: lists keep their order. `form`: what a polynomial must look like."""

    ordered: bool = False
    form: Literal["factored", "expanded"] | None = None


def demand_of(question: str) -> Demand:
    """What a question demands."""
    form: Literal["factored", "expanded"] | None = None
    if FACTOR.search(question):
        form = "factored"
    elif EXPAND.search(question):
        form = "expanded"
    return Demand(ORDER.search(question) is not None, form)


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
