"""The parts of a made problem: its needed steps, the solved problem, and the problem with redundant steps."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Difficulty: TypeAlias = Literal["easy", "medium", "hard"]


@dataclass(frozen=True, slots=True)
class NeededStep:
    """A step that says something new.

    `what` is a noun phrase of the quantity it finds; it uses only numbers stated earlier. `value` is what it finds.
    `expression` = `value` is its calculation, if it fits this form. `inverse` is a true calculation that confirms it
    and uses only numbers that the step or an earlier one states.
    """

    text: str
    what: str = ""
    value: str = ""
    expression: str = ""
    inverse: str = ""


@dataclass(frozen=True, slots=True)
class SolvedProblem:
    """A question, its needed steps and its answer. The last step states the answer.

    `asked` is a noun phrase of what the question asks for; `givens` are clauses, each stating what the question gives.
    """

    question: str
    asked: str
    givens: tuple[str, ...]
    steps: tuple[NeededStep, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class MarkedProblem:
    """A question, the steps of its solution, its answer; which steps are redundant, and the kind of each of those."""

    question: str
    steps: tuple[str, ...]
    answer: str
    redundant: tuple[int, ...]
    kinds: tuple[str, ...]


def answer_statement(answer: str) -> NeededStep:
    """The last step of every made solution."""
    return NeededStep(f"The answer is {answer}.", "the answer", answer)
