"""A proof that a made problem is right, with its redundant steps and without them.

A second solver reads the question's text and computes the answer by other means than the task does. Every equation in
the steps must hold. Each number that a needed step uses must be given, be a constant of the task, or come from an
earlier needed step or from a calculation in the step itself, so the needed steps stand on their own. A redundant step
states nothing that was not stated before; a detour may, but its result is never used. Numbers are compared by size,
without sign; equations are compared with signs.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from algorithms.tasks.arithmetic import (
    NUMBER_WORDS,
    Polynomial,
    at,
    derivative,
    difference,
    equations,
    numbers,
    polynomial,
)
from algorithms.tasks.problem import MarkedProblem

Check = Callable[[list[str]], list[str]]


@dataclass(frozen=True, slots=True)
class _Truth:
    """What a question's text says.

    `x` is the value of the unknown, if there is one; `functions` are f and f'. `derived` says which numbers a step may
    state because of the needed steps up to it, by other means than an equation. `check` complains about needed steps.
    """

    answer: str
    num_needed: int
    givens: frozenset[int] = frozenset()
    constants: frozenset[int] = frozenset()
    x: Fraction | None = None
    functions: Mapping[str, Polynomial] = field(default_factory=dict)
    derived: Callable[[list[str]], set[int]] = lambda needed: set()
    check: Check = lambda needed: []


def complaints(task: str, problem: MarkedProblem) -> list[str]:
    """What is wrong with a problem of a task; empty if it is right."""
    try:
        truth = READERS[task](problem.question)
    except (ValueError, TypeError, IndexError) as error:  # a text that the reader's patterns do not match
        return [f"the question cannot be read: {error}"]
    marked = dict(zip(problem.redundant, problem.kinds, strict=False))
    needed = [step for index, step in enumerate(problem.steps) if index not in marked]
    found = []
    if len(problem.redundant) != len(problem.kinds) or not set(marked) <= set(range(len(problem.steps))):
        found.append("redundant and kinds do not fit the steps")
    if problem.answer != truth.answer:
        found.append(f"the answer is {truth.answer}, not {problem.answer}")
    if len(needed) != truth.num_needed:
        found.append(f"{truth.num_needed} steps are needed, not {len(needed)}")
    if not needed or problem.steps[-1] != needed[-1] or needed[-1] != f"The answer is {truth.answer}.":
        found.append("the last step does not state the answer")
    return [*found, *_flow(truth, problem, marked), *truth.check(needed)]


def _flow(truth: _Truth, problem: MarkedProblem, marked: Mapping[int, str]) -> Iterator[str]:
    """Complaints about equations, and about where the numbers of the steps come from."""
    stated = numbers(problem.question) | {Fraction(number) for number in truth.givens}
    constants = {Fraction(number) for number in truth.constants}
    useless: set[Fraction] = set()
    said: set[tuple[str, str]] = set()
    pairs = [_pairs(step) for step in problem.steps]
    needed: list[str] = []
    for index, step in enumerate(problem.steps):
        name = f"step {index} ({step!r})"
        mentioned = numbers(step)
        if index in marked:
            yield from (f"{name}: {wrong}" for wrong in _false_equations(step, truth))
            new = mentioned - stated
            later = (pairs[place] for place in range(index, len(pairs)) if place not in marked)
            if pairs[index] & set().union(*later) - said:
                yield f"{name} is redundant, but states what a needed step states later"
            if marked[index] == "detour":
                useless |= new
            elif new:
                yield f"{name} is redundant, but states {_shown(new)} for the first time"
            continue
        needed.append(step)
        said |= pairs[index]
        known = stated | constants | {Fraction(number) for number in truth.derived(needed)}
        yield from (f"{name}: {wrong}" for wrong in _false_equations(step, truth))
        unknown = _unknown(step, truth, known)
        if unknown:
            yield f"{name} uses {_shown(unknown)}, which no needed step states before"
        if useless & mentioned:
            yield f"{name} uses {_shown(useless & mentioned)} from a detour"
        stated |= mentioned


def _pairs(step: str) -> set[tuple[str, str]]:
    """The pairs of neighbouring sides of the equations of a step, without those that name the value of x."""
    return {pair for sides in equations(step) for pair in itertools.pairwise(sides) if pair[0] != "x"}


def _unknown(step: str, truth: _Truth, known: set[Fraction]) -> set[Fraction]:
    """The numbers of a needed step that are neither known nor results of calculations in it."""
    known, unknown = set(known), set()
    for sides in equations(step):
        for left, right in itertools.pairwise(sides):
            unknown |= numbers(left) - known
            if "f" not in left and _is_identity(left, right, truth):
                known |= numbers(right)
    return unknown | (numbers(step) - known)


def _false_equations(step: str, truth: _Truth) -> Iterator[str]:
    for sides in equations(step):
        for left, right in itertools.pairwise(sides):
            try:
                gap = difference(polynomial(left, truth.functions), polynomial(right, truth.functions))
            except ValueError as error:
                yield f"{left} = {right} cannot be read: {error}"
                continue
            if gap and (truth.x is None or set(gap) == {0} or at(gap, truth.x)):
                yield f"{left} = {right} is false"


def _is_identity(left: str, right: str, truth: _Truth) -> bool:
    try:
        return polynomial(left, truth.functions) == polynomial(right, truth.functions)
    except ValueError:
        return False


def _shown(values: set[Fraction]) -> str:
    return ", ".join(map(str, sorted(values)))


def _matched(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"nothing in {text!r} matches {pattern!r}")
    return found


def _word_problem(question: str) -> _Truth:
    """Replays the sentences of the question."""
    first, *changes, _ = re.split(r"(?<=[.?])\s+", question)
    count = Fraction(_matched(r"has (\d+) ", first)[1])
    for change in changes:
        if more := re.search(r"finds (\d+) more", change):
            count += int(more[1])
        elif fewer := re.search(r"gives (\d+) ", change):
            count -= int(fewer[1])
        elif among := re.search(r"equally among (\d+) people", change):
            count /= int(among[1])
        else:
            count *= NUMBER_WORDS[_matched(f"has ({'|'.join(NUMBER_WORDS)}) as many", change)[1]]
    return _Truth(str(count), len(changes) + 1)


def _al1(question: str) -> _Truth:
    """Moves everything to one side, and divides."""
    [[left, right]] = equations(question)
    gap = difference(polynomial(left), polynomial(right))
    if set(gap) - {0, 1} or 1 not in gap:
        raise ValueError(f"{left} = {right} is not linear")
    x = -gap.get(0, Fraction(0)) / gap[1]
    return _Truth(str(x), 7, x=x)


def _nbc(question: str) -> _Truth:
    """Reads the number with `int`, and finds the target's digits from the highest one down."""
    number = _matched(r"\b\d{2,}\b", question)[0]
    source, target = (int(base) for base in re.findall(r"base (\d)\b", question))
    value = int(number, source)
    power = 1
    while power * target <= value:
        power *= target
    rest, answer = value, ""
    while power:
        answer += str(rest // power)
        rest, power = rest % power, power // target

    def remainders(needed: list[str]) -> list[tuple[str, ...]]:
        pattern = rf"\b(\d+) = {target} \* (\d+) \+ (\d+)"
        return [found.groups() for step in needed if (found := re.search(pattern, step))]

    def derived(needed: list[str]) -> set[int]:
        read = "".join(remainder for _, _, remainder in reversed(remainders(needed)))
        return {int(answer)} if read == answer else set()

    def check(needed: list[str]) -> list[str]:
        dividends = [value]
        for dividend, quotient, remainder in remainders(needed):
            if int(dividend) != dividends[-1] or int(remainder) >= target:
                return [f"{dividend} = {target} * {quotient} + {remainder} is not the next division"]
            dividends.append(int(quotient))
        return [] if dividends[-1] == 0 else [f"{dividends[-1]} is not divided"]

    givens = frozenset({*map(int, number), *range(len(number))})
    return _Truth(answer, len(number) + len(answer) + 3, givens, derived=derived, check=check)


def _diff_calc(question: str) -> _Truth:
    """Differentiates the whole polynomial at once."""
    function = polynomial(_matched(r"f\(x\) = ([-+*^x\d ]*[x\d])", question)[1].strip())
    point = Fraction(_matched(r"(?:f'\(| at x = )(-?\d+)", question)[1])
    slope = derivative(function)

    def check(needed: list[str]) -> list[str]:
        wrong = []
        for step in needed:
            if found := re.search(r"derivative of (-?\d*x\^\d+) is", step):
                result = equations(step)[0][-1]
                if polynomial(result) != derivative(polynomial(found[1])):
                    wrong.append(f"the derivative of {found[1]} is not {result}")
        if not any("f'(x) = " in step for step in needed):  # which holds, as every equation does
            wrong.append("the derivative of the whole function is not stated")
        return wrong

    return _Truth(
        str(at(slope, point)),
        2 * len(slope) + 3 + (0 in function),
        constants=frozenset({0, 1}),
        x=point,
        functions={"f": function, "f'": slope},
        check=check,
    )


def _time_diff(question: str) -> _Truth:
    """Walks the clock minute by minute, from the first time to the second."""
    times = re.findall(r"(\d+):(\d\d) ([AP]M)", question)
    begin, end = (_clock(*time) for time in times)
    overnight = "the next day" in question
    if not overnight and end <= begin:
        raise ValueError("the second time comes first")
    now, minutes = begin, 0
    while now != end:
        now = (now[0], now[1] + 1) if now[1] < 59 else ((now[0] + 1) % 24, 0)
        minutes += 1

    def check(needed: list[str]) -> list[str]:
        wrong = []
        for time in times:
            spoken, hour = f"{time[0]}:{time[1]} {time[2]}", _clock(*time)[0]
            if not any(spoken in step and f" is {hour}:{time[1]}" in step for step in needed):
                wrong.append(f"no step states {spoken} on the 24-hour clock")
        return wrong

    constants = frozenset({12, 60, 1440} if overnight else {12, 60})
    return _Truth(str(minutes), 7 if overnight else 6, constants=constants, check=check)


def _clock(hour: str, minute: str, half: str) -> tuple[int, int]:
    return int(hour) % 12 + (12 if half == "PM" else 0), int(minute)


READERS: Final[Mapping[str, Callable[[str], _Truth]]] = MappingProxyType(
    {
        "word-problems": _word_problem,
        "al1": _al1,
        "nbc": _nbc,
        "diff-calc": _diff_calc,
        "time-diff": _time_diff,
    }
)
