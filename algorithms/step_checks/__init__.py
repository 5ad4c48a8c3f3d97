r"""Step checks: what a solution's text claims, and whether it holds. No solver, no model, about a millisecond a sample.

    claims       a claim with its place, kind and verdict; the counts of all claims of a text
    tokens       a text -> regions of mathematics and prose -> tokens
    statements   tokens -> statements: sides joined by relations
    expressions  a compiled side: a program for a stack machine
    parsing      tokens of a side -> expression: sums, products, powers, brackets, units
    commands     the part of parsing that reads \frac, \sqrt, \sin and the like
    numerals     the part of parsing that reads numbers
    numbers      exact arithmetic with bounds
    evaluation   run an expression, under each reading that its notation allows
    units        sizes of units of measure
    context      the words around a statement that make it no claim, or a rewriting
    chains       claims of numbers: equalities, approximations, inequalities, congruences
    identities   claims of expressions rewritten
    known        what a text has stated so far: equations, values, functions
    equations    claims of equations that follow from one another
    roots        claims of values that solve equations, and of expressions with known values
    divisors     claims of remainders, divisors and primes in words
    words        claims of sums, percents and the like in words
    asked        whether the final answer is what the question asks to compute

A family of claims is a function that yields them; `check` runs them all. Each family gives the verdict False only
where nothing speaks for another meaning; what may be meant otherwise stays unchecked (None), or is no claim.

Nothing here raises or runs long, whatever the text: numbers, exponents, brackets, formulas and the text are bounded.
"""

from typing import Final

from algorithms.step_checks.asked import COMPLEX, answer_claim, read_question
from algorithms.step_checks.chains import numeric_claims
from algorithms.step_checks.claims import KINDS, Claim, summary
from algorithms.step_checks.divisors import divisor_claims
from algorithms.step_checks.equations import equation_claims
from algorithms.step_checks.identities import identity_claims
from algorithms.step_checks.statements import statements
from algorithms.step_checks.tokens import without_annotations
from algorithms.step_checks.words import word_claims

MAX_CHARACTERS: Final = 100_000


def check(text: str, question: str = "") -> list[Claim]:
    """The claims in the first MAX_CHARACTERS of a solution, in reading order.

    `question` tells which equations and functions are given, and what the final answer must be equal to. A statement
    can hold claims of more than one kind, at overlapping places.
    """
    text = without_annotations(text[:MAX_CHARACTERS])
    asked = read_question(question[:MAX_CHARACTERS])
    known = asked.known.copy()
    is_complex = asked.is_complex or COMPLEX.search(text) is not None
    claims: list[Claim] = []
    for statement in statements(text, with_stars=not asked.has_stars):
        claims += numeric_claims(text, statement)
        if any(side is not None and side.names for side in statement.sides):
            claims += identity_claims(text, statement, known, is_complex)
            claims += equation_claims(text, statement, known)
    claims += divisor_claims(text)
    claims += word_claims(text)
    answer = answer_claim(text, asked, known)
    if answer is not None:
        claims.append(answer)
    return sorted(claims, key=lambda claim: (claim.start, claim.end))


__all__ = ["KINDS", "Claim", "check", "summary"]
