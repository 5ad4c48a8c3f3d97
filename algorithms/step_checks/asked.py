r"""What a question asks to compute, and whether the final answer is it.

Read only where the question is plain: "Compute $\sin 60^\circ$", "Find $f(2)$" after a definition of f, "Solve for
$x$" with one equation in x, "What is the remainder when $7^9$ is divided by 5?".
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from algorithms.step_checks.chains import compare
from algorithms.step_checks.claims import Claim
from algorithms.step_checks.divisors import asked_of_integers
from algorithms.step_checks.equations import equation_claims
from algorithms.step_checks.evaluation import WITHOUT_UNITS, evaluate, gap, point
from algorithms.step_checks.expressions import Expression, Unparsable, tuple_of_variables, variable
from algorithms.step_checks.known import Known
from algorithms.step_checks.numbers import Value
from algorithms.step_checks.parsing import parse
from algorithms.step_checks.statements import statements
from algorithms.step_checks.tokens import Token, formulas_and_prose, tokens_of

MAX_ANSWER: Final = 300  # characters
SAME: Final = 1e-7
COMPLEX: Final = re.compile(
    r"complex|imaginary|i\^2|\bcis\b|e\^\{?i|roots? of unity|(?<![\da-zA-Z])\d{1,9}i\b|(?<![a-zA-Z])i\^\{?-?\d"
)
COMMAND: Final = re.compile(
    r"\b(?:(?:find|compute|evaluate|simplify|calculate|what is|what's|determine|expand|multiply|simplifying|"
    r"rationalize the denominator of)|(?:find|compute|evaluate|simplify|what is|calculate|determine|of) (?:the )?"
    r"(?:exact |numerical |following |result of )?(?:value of|value for|product|sum|expression|quotient|difference)"
    r"(?: of)?)[:,]? $",
    re.IGNORECASE,
)
UNKNOWN: Final = re.compile(
    r"\b(?:solve (?:the equation )?(?:for|in)|(?:find|determine|what is|what are|compute|calculate)"
    r"(?: (?!sum|product|number|difference|ratio|average|mean)[a-z]+){0,6})[:,]? $",
    re.IGNORECASE,
)
ENDED: Final = re.compile(
    r"\s*[.?]?\s*(?:$|\[asy\]|[.?]\s|(?:if|when|for|given|where|in simplest|as a common|and express|in the form)\b)",
    re.IGNORECASE,
)
ASKED_AGAIN: Final = re.compile(
    r"\b(?:what is|find|compute|determine|how many|in the form|of the form)\b", re.IGNORECASE
)
OTHER_FORM: Final = re.compile(
    r"in base|base[- ]\w+|modulo|remainder|nearest|digit|in terms of|percent|real part|\bbase\b|estimate|approximat|"
    r"inverse|domain|range|scientific|coefficient|binary|graph of|operation|how many|"
    r"defin\w+ .{0,40}(?:star|ast|oplus)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Question:
    """What a question states, and what it asks for if that is plain: an expression, an unknown, or a known number."""

    known: Known
    wanted: Expression | None
    unknowns: tuple[str, ...]
    expected: int | None
    is_complex: bool
    has_stars: bool  # * is an operation that it defines


@lru_cache(maxsize=512)
def read_question(question: str) -> Question:
    """Read a question once for all its solutions."""
    known = Known()
    for statement in statements(question, with_stars=False):
        for _ in equation_claims(question, statement, known, in_question=True):
            pass
    expected = asked_of_integers(question)
    wanted: Expression | None = None
    unknowns: tuple[str, ...] = ()
    has_stars = "*" in question
    if expected is None and not has_stars and not OTHER_FORM.search(question):
        wanted, unknowns = _asked(question, known)
    return Question(known, wanted, unknowns, expected, COMPLEX.search(question) is not None, has_stars)


def answer_claim(text: str, question: Question, found: Known) -> Claim | None:
    """Whether the last box of a solution holds what the question asks for. `found` is what the solution states."""
    if question.wanted is None and not question.unknowns and question.expected is None:
        return None
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    end = _closing(text, start)
    answers = _parsed(text, start, end)
    if not answers:
        return None
    try:
        verdict = _is_asked(question, answers, found)
    except (ArithmeticError, TypeError):
        return None
    return None if verdict is None else Claim(start, end, "answer", verdict)


def _closing(text: str, start: int) -> int:
    depth = 1
    for place in range(start, min(len(text), start + MAX_ANSWER)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return start


def _parsed(text: str, start: int, end: int) -> list[Expression]:
    """The expressions of a formula, split at commas; none if one is unknown notation."""
    tokens = tokens_of(text, start, end, is_formula=True)
    while tokens and tokens[-1].kind in ("w", "b", ","):
        tokens.pop()
    if len(tokens) > 2 and tokens[0].kind == "v" and tokens[1].text == "=":
        tokens = tokens[2:]
    pieces: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.kind, 0)
        if token.kind == "," and depth == 0:
            pieces.append([])
        else:
            pieces[-1].append(token)
    try:
        return [parse(piece) for piece in pieces]
    except Unparsable:
        return []


def _asked(question: str, known: Known) -> tuple[Expression | None, tuple[str, ...]]:
    """The expression to compute, or the unknowns to solve for."""
    wanted: Expression | None = None
    unknowns: tuple[str, ...] = ()
    for start, end, is_formula in formulas_and_prose(question):
        if not is_formula or end - start > MAX_ANSWER:
            continue
        before = question[max(0, start - 80) : start].rstrip("$\\[( \n") + " "
        after = question[end : end + 40].lstrip("$").removeprefix("\\]").removeprefix("\\)")
        while end > start and question[end - 1] in ".?,: \n":
            end -= 1
        parsed = _parsed(question, start, end)
        if len(parsed) != 1:
            continue
        name = variable(parsed[0])
        names = tuple_of_variables(parsed[0]) if name is None else (name,)
        if names and not known.values.keys() & set(names):
            if UNKNOWN.search(before) and any(equation.names <= set(names) for equation in known.equations):
                unknowns = names
        elif COMMAND.search(before) and ENDED.match(after):
            wanted = None if ASKED_AGAIN.search(question, end) else parsed[0]
    return (wanted, ()) if wanted is not None else (None, unknowns)


def _is_asked(question: Question, answers: list[Expression], found: Known) -> bool | None:
    if question.unknowns:
        return _solves(question.known, question.unknowns, answers)
    if len(answers) > 1:
        return None
    (answer,) = answers
    if question.expected is not None:
        value = None if answer.names else evaluate(answer)
        return value == question.expected if isinstance(value, int) else None
    assert question.wanted is not None
    return _is_wanted(question, question.wanted, answer, found)


def _is_wanted(question: Question, wanted: Expression, answer: Expression, found: Known) -> bool | None:
    if not wanted.names:
        return None if answer.names else compare(wanted, "=", answer)
    if question.known.can_evaluate(wanted):
        values = question.known.sure()
        return gap(evaluate(wanted, values, functions=question.known.functions), evaluate(answer, values)) < SAME
    if not answer.names and found.can_evaluate(wanted):
        value = evaluate(wanted, found.sure(), functions=found.functions)
        return gap(value, evaluate(answer)) < SAME or None
    is_complex = "i" in wanted.names and question.is_complex
    free = wanted.names - {"i"} if is_complex else wanted.names
    if any(question.known.constrains(frozenset((name,))) for name in free):
        return None
    if not wanted.names >= answer.names or bool(free) > bool(answer.names):
        return None
    at: dict[str, Value] = {name: point(name, 0) for name in wanted.names}
    if is_complex:
        at["i"] = 1j
    return gap(evaluate(wanted, at), evaluate(answer, at)) < SAME


def _solves(known: Known, names: tuple[str, ...], answers: list[Expression]) -> bool | None:
    """Whether each answer solves every equation of the question in the unknowns alone."""
    if any(answer.names for answer in answers):
        return None
    equations = [equation for equation in known.equations if equation.names <= set(names)]
    for answer in answers:
        value = evaluate(answer, reading=WITHOUT_UNITS)
        parts = value if isinstance(value, tuple) and len(names) > 1 else (value,)
        if len(parts) != len(names):
            return None
        values = dict(zip(names, parts, strict=True))
        if any(gap(evaluate(each.left, values), evaluate(each.right, values)) > 1e-6 for each in equations):
            return None if answer.has_decimals or answer.special else False
    return True
