"""The derivative of a polynomial at a point: of each term, of the whole, then its value term by term.

No term is linear, because the value of its derivative would be a step that says nothing new.
"""

import random
from typing import Final

from algorithms.tasks.problem import Difficulty, NeededStep, SolvedProblem, answer_statement

NUM_TERMS: Final = {"easy": 2, "medium": 3, "hard": 4}  # besides the constant, which easy problems lack
QUESTIONS: Final = (
    "Let f(x) = {function}. What is f'({point})?",
    "Find the derivative of f(x) = {function} at x = {point}.",
    "Given f(x) = {function}, compute f'({point}).",
)
DERIVATIVES: Final = (
    "The derivative of {term} is {calculation}.",
    "By the power rule, the derivative of {term} is {calculation}.",
    "Differentiating term by term, the derivative of {term} is {calculation}.",
)
WHOLES: Final = (
    "Together, f'(x) = {0}.",
    "So the derivative of the whole function is f'(x) = {0}.",
    "Putting the terms together, f'(x) = {0}.",
)
VALUES: Final = (
    "At x = {point}, the term {term} is {calculation}.",
    "For x = {point}, the term {term} has the value {calculation}.",
    "With x = {point}, we evaluate {term} and get {calculation}.",
)
SUMS: Final = (
    "Adding these values, f'({0}) = {1}.",
    "The sum of the values is f'({0}) = {1}.",
    "Therefore f'({0}) = {1}.",
)


def generate(rng: random.Random, difficulty: Difficulty) -> SolvedProblem:
    """A polynomial with 2, 3 or 4 terms of different degrees; a constant too, unless the problem is easy."""
    num_terms = NUM_TERMS[difficulty]
    degrees = sorted(rng.sample(range(2, num_terms + 3), num_terms), reverse=True)
    signs = (1,) if difficulty == "easy" else (-1, 1)
    terms = [(rng.choice(signs) * rng.randint(2, 7), degree) for degree in degrees]
    constant = 0 if difficulty == "easy" else rng.choice(signs) * rng.randint(2, 9)
    point = rng.choice(signs) * rng.randint(2, 3 if difficulty == "hard" else 4)
    base = f"({point})" if point < 0 else f"{point}"
    function = _sum([*(_term(*term) for term in terms), *([f"{constant}"] if constant else [])])
    derivative_text, value_text = rng.choice(DERIVATIVES), rng.choice(VALUES)
    steps: list[NeededStep] = []
    for factor, degree in terms:
        shown = f"({factor})" if factor < 0 else f"{factor}"
        expression, result = f"{degree} * {shown}x^({degree} - 1)", _term(factor * degree, degree - 1)
        term = _term(factor, degree)
        text = derivative_text.format(term=term, calculation=f"{expression} = {result}")
        steps.append(NeededStep(text, f"the derivative of {term}", result, expression))
    if constant:
        what = f"the derivative of the constant {constant}"
        steps.append(NeededStep(f"{what[0].upper()}{what[1:]} is 0.", what, "0"))
    slopes = [(factor * degree, degree - 1) for factor, degree in terms]
    whole = _sum([_term(*slope) for slope in slopes])
    steps.append(NeededStep(rng.choice(WHOLES).format(whole), "the derivative of the whole function", whole))
    values = []
    for factor, degree in slopes:
        expression, value = f"{factor} * {base}" + (f"^{degree}" if degree > 1 else ""), factor * point**degree
        term = _term(factor, degree)
        text = value_text.format(point=point, term=term, calculation=f"{expression} = {value}")
        steps.append(NeededStep(text, f"the value of {term} at x = {point}", f"{value}", expression))
        values.append(value)
    total, answer = _sum([str(value) for value in values]), f"{sum(values)}"
    text = rng.choice(SUMS).format(point, f"{total} = {answer}")
    steps.append(NeededStep(text, "the sum of these values", answer, total))
    return SolvedProblem(
        rng.choice(QUESTIONS).format(function=function, point=point),
        f"the derivative of f at x = {point}",
        (f"f(x) = {function}",),
        (*steps, answer_statement(answer)),
        answer,
    )


def _term(factor: int, degree: int) -> str:
    return f"{factor}x" + (f"^{degree}" if degree > 1 else "")


def _sum(terms: list[str]) -> str:
    first, *others = terms
    return " ".join([first, *(f"- {term[1:]}" if term.startswith("-") else f"+ {term}" for term in others)])
