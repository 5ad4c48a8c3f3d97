"""A linear equation in one unknown, `a(x + b) + c = d(x + e)`, solved in exactly seven steps."""

import random
from typing import Final

from algorithms.tasks.problem import Difficulty, NeededStep, SolvedProblem, answer_statement

QUESTIONS: Final = (
    "Solve the equation {equation} for x.",
    "Find the value of x that satisfies {equation}.",
    "For which value of x does {equation} hold?",
    "What is x if {equation}?",
)
LARGEST_CONSTANT: Final = {"easy": 30, "medium": 60, "hard": 200}


def generate(rng: random.Random, difficulty: Difficulty) -> SolvedProblem:
    """An equation with an integer solution. easy: positive numbers; medium: signs; hard: larger numbers."""
    a, b, c, d, e = _coefficients(rng, difficulty)
    left, right = f"{_bracket(a, b)} {_signed(c)}", _bracket(d, e)
    known = a * b + c  # the constant on the left
    slope, rest = a - d, d * e - known
    solution = rest // slope
    given = f"{left} = {right}"
    divisor = f"({slope})" if slope < 0 else f"{slope}"
    reduced = f"{_linear(slope, known)} = {d * e}"
    steps = (
        NeededStep(
            rng.choice(
                (
                    "Expanding the left bracket, {0}, so the equation becomes {1}.",
                    "First we expand the bracket on the left: {0}. This gives {1}.",
                    "We multiply out the left bracket, {0}, and get {1}.",
                )
            ).format(f"{_bracket(a, b)} = {_linear(a, a * b)}", f"{_linear(a, a * b)} {_signed(c)} = {right}"),
            "the expanded form of the left bracket",
            _linear(a, a * b),
            _bracket(a, b),
        ),
        NeededStep(
            rng.choice(
                (
                    "Combining the constants on the left, {0}, so {1}.",
                    "The constants on the left give {0}, and the equation is now {1}.",
                    "On the left we add the constants: {0}. The equation is {1}.",
                )
            ).format(f"{a * b} {_signed(c)} = {known}", f"{_linear(a, known)} = {right}"),
            "the constant on the left",
            f"{known}",
            f"{a * b} {_signed(c)}",
            f"{known} {_signed(-c)} = {a * b}",
        ),
        NeededStep(
            rng.choice(
                (
                    "Expanding the right bracket, {0}, so {1}.",
                    "On the right, {0}, which gives {1}.",
                    "We multiply out the bracket on the right, {0}, and have {1}.",
                )
            ).format(f"{_bracket(d, e)} = {_linear(d, d * e)}", f"{_linear(a, known)} = {_linear(d, d * e)}"),
            "the expanded form of the right bracket",
            _linear(d, d * e),
            _bracket(d, e),
        ),
        NeededStep(
            rng.choice(
                (
                    "Bringing the x terms to the left, {0}, so {1}.",
                    "We collect the x terms on the left: {0}. This leaves {1}.",
                    "With all x terms on the left, {0}, and therefore {1}.",
                )
            ).format(f"{_term(a)} {_signed_term(-d)} = {_term(slope)}", reduced),
            "the x term on the left",
            _term(slope),
            f"{_term(a)} {_signed_term(-d)}",
            f"{_term(slope)} {_signed_term(d)} = {_term(a)}",
        ),
        NeededStep(
            rng.choice(
                (
                    "Bringing the constants to the right, {0}, so {1}.",
                    "We move the constant to the right: {0}. So {1}.",
                    "Moving the constant to the right gives {0}, which means {1}.",
                )
            ).format(f"{d * e} {_signed(-known)} = {rest}", f"{_term(slope)} = {rest}"),
            "the constant on the right",
            f"{rest}",
            f"{d * e} {_signed(-known)}",
            f"{rest} {_signed(known)} = {d * e}",
        ),
        NeededStep(
            rng.choice(
                (
                    "Dividing both sides by {0}, we get x = {1}.",
                    "We divide both sides by {0}: x = {1}.",
                    "Division by {0} gives x = {1}.",
                )
            ).format(slope, f"{rest} / {divisor} = {solution}"),
            "x",
            f"{solution}",
            f"{rest} / {divisor}",
            f"{slope} * {f'({solution})' if solution < 0 else solution} = {rest}",
        ),
        answer_statement(f"{solution}"),
    )
    question = rng.choice(QUESTIONS).format(equation=given)
    return SolvedProblem(question, "the value of x", (f"the equation is {given}",), steps, f"{solution}")


def _coefficients(rng: random.Random, difficulty: Difficulty) -> tuple[int, int, int, int, int]:
    """a, b, c, d, e such that no step is trivial."""
    largest = 9 if difficulty != "hard" else 15
    while True:
        signs = (1,) if difficulty == "easy" else (-1, 1)
        b, e, solution = (rng.choice(signs) * rng.randint(2, largest) for _ in range(3))
        outer = signs if difficulty == "hard" else (1,)
        a, d = (rng.choice(outer) * rng.randint(2, largest) for _ in range(2))
        c = d * (solution + e) - a * (solution + b)
        known, slope = a * b + c, a - d
        if abs(slope) < 2 or (difficulty != "hard" and slope < 0) or (difficulty == "easy" and c < 0):
            continue
        if c and known and abs(c) <= LARGEST_CONSTANT[difficulty]:
            return a, b, c, d, e


def _bracket(factor: int, constant: int) -> str:
    return f"{factor}(x {_signed(constant)})"


def _linear(slope: int, constant: int) -> str:
    return f"{_term(slope)} {_signed(constant)}"


def _term(slope: int) -> str:
    return f"{slope}x"


def _signed(number: int) -> str:
    return f"+ {number}" if number >= 0 else f"- {-number}"


def _signed_term(slope: int) -> str:
    return f"{_signed(slope)}x"
