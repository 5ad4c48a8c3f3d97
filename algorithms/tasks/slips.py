"""Worked solutions with mistakes of a known kind, for rankers and graders that want samples whose truth is known.

A solution of `word_problems` is a chain of calculations, each on the result of the one before. A mistake is either a
wrong result or a forgotten calculation, and the steps behind it follow from it. A wrong result is a false claim, which
can be seen; after a forgotten calculation every claim holds, and the answer is wrong all the same.
"""

import random
import re
from collections.abc import Callable
from typing import Final

from algorithms.tasks.problem import MarkedProblem

CALCULATION: Final = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
OPERATIONS: Final[dict[str, Callable[[int, int], int]]] = {
    "+": int.__add__,
    "-": int.__sub__,
    "*": int.__mul__,
    "/": int.__floordiv__,
}
OFF_BY: Final = (-10, -2, -1, 1, 2, 10)


def worked(problem: MarkedProblem, rng: random.Random, slip_probability: float) -> str:
    """A solution of a problem, without its redundant steps; with the probability given it holds a mistake."""
    steps = [step for index, step in enumerate(problem.steps) if index not in problem.redundant]
    calculations = [found for step in steps if (found := CALCULATION.search(step)) is not None]
    if rng.random() >= slip_probability:
        return "\n".join(steps)
    start = int(calculations[0][1])
    is_forgotten = len(calculations) > 1 and rng.random() < 0.5
    places = [index for index, step in enumerate(steps) if CALCULATION.search(step)]
    for place in rng.sample(places, len(places)):
        kept = steps[:place] + steps[place + 1 :] if is_forgotten else steps
        slips = [None] if is_forgotten else [(place, off_by) for off_by in rng.sample(OFF_BY, len(OFF_BY))]
        for slip in slips:
            solution = _recomputed(kept, start, slip)
            if solution is not None:
                return solution
    last = _recomputed(steps, start, (places[-1], 1))
    assert last is not None
    return last


def _recomputed(steps: list[str], start: int, slip: tuple[int, int] | None) -> str | None:
    """The steps with each calculation on the result of the one before. `slip`: a step and what its result is off by.

    None if a division would leave a remainder or a count would be negative: nobody would write that.
    """
    lines, count = [], start
    for index, step in enumerate(steps):
        found = CALCULATION.search(step)
        if found is None:
            lines.append(f"The answer is {count}.")
            continue
        operand = int(found[3])
        if found[2] == "/" and count % operand:
            return None
        result = OPERATIONS[found[2]](count, operand)
        if slip is not None and slip[0] == index:
            result += slip[1]
        if result < 0:
            return None
        lines.append(CALCULATION.sub(f"{count} {found[2]} {operand} = {result}", step))
        count = result
    return "\n".join(lines)
