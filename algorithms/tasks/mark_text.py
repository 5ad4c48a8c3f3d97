"""Redundant steps in real worked solutions, at known places.

They restate the question or the calculation of the step before, repeat or invert that calculation, announce or comment.
Only calculations that hold exactly are repeated. No detours: a real solution does not tell which numbers are givens.
"""

import operator
import random
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Final

from algorithms.chains import Chain, answer_step
from algorithms.tasks.marks import Place, Wordings, insert, last_sentence
from algorithms.tasks.problem import MarkedProblem

NUMBER: Final = r"(\d+(?:,\d{3})*(?:\.\d+)?)"
CALCULATION: Final = re.compile(rf"(?<![\d.,]){NUMBER} ?([-+*/x×÷]) ?\$?{NUMBER} ?= ?\$?{NUMBER}(?![\d%]|[.,]\d)")
OPERATIONS: Final[Mapping[str, tuple[str, Callable[[Fraction, Fraction], Fraction]]]] = {
    "+": ("adding {a} and {b}", operator.add),
    "-": ("subtracting {b} from {a}", operator.sub),
    "*": ("multiplying {a} by {b}", operator.mul),
    "/": ("dividing {a} by {b}", operator.truediv),
}
SAME_SIGN: Final = {"x": "*", "×": "*", "÷": "/"}
INVERSES: Final = {"+": "{c} - {b} = {a}", "-": "{c} + {b} = {a}", "*": "{c} / {b} = {a}", "/": "{c} * {b} = {a}"}
OPEN_ENDS: Final = (":", ",", ";", "(", "=", "\\\\")  # a step that ends so goes on in the next one
LONGEST_QUESTION: Final = 200  # characters of a sentence that a step repeats


def mark_chain(
    chain: Chain, seed: int, index: int | str, redundancy: float = 0.3, wordings: Wordings = "all"
) -> MarkedProblem:
    """The chain with redundant steps, none of them behind the step that states the answer.

    `index` is the number or the id of the chain; the same arguments always give the same steps. The chain's own steps
    stay as they are.
    """
    rng = random.Random(f"mark:{seed}:{index}")
    inserted = insert(chain.steps, _places(chain), rng, redundancy, wordings)
    return MarkedProblem(chain.question, inserted.steps, chain.answer, inserted.redundant, inserted.kinds)


def _places(chain: Chain) -> list[Place]:
    """The place before each step; empty where no redundant step may stand."""
    question = last_sentence(chain.question)
    common = {"question": question} if len(question) <= LONGEST_QUESTION and "\n" not in question else {}
    answer = answer_step(chain)
    places: list[Place] = [{**common, "start": ""}]
    for index, before in enumerate(chain.steps[:-1]):
        is_closed = bool(before.strip()) and not before.rstrip().endswith(OPEN_ENDS)
        is_early = answer is None or index < answer
        places.append({**common, "after": "", **_calculation(before)} if is_closed and is_early else {})
    return places[: len(chain.steps)]


def _calculation(step: str) -> Mapping[str, str]:
    """The last calculation `a op b = c` of a step that holds, in the fields of wordings; empty if there is none."""
    for found in reversed(list(CALCULATION.finditer(step))):
        a, sign, b, c = found.groups()
        sign = SAME_SIGN.get(sign, sign)
        words, calculate = OPERATIONS[sign]
        left, right, result = (Fraction(number.replace(",", "")) for number in (a, b, c))
        before, behind = step[: found.start()].rstrip(" $"), step[found.end() :].lstrip()
        is_part = before.endswith(("+", "-", "*", "/", "x", "×", "÷", "^", "%", "=")) or behind[:1] in tuple("+-*/×÷^=")
        if is_part or (sign == "/" and not right) or calculate(left, right) != result:
            continue
        place = {"expression": f"{a} {sign} {b}", "value": c, "operation": words.format(a=a, b=b)}
        return place if sign == "*" and not right else place | {"inverse": INVERSES[sign].format(a=a, b=b, c=c)}
    return {}
