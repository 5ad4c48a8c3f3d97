"""Number base conversion by way of decimal. All problems of a difficulty have the same steps in the same order.

One step for the value of each digit, one for their sum, one division for each digit of the result, one that reads the
remainders, and the answer: 9 steps if easy, 12 if medium, 16 if hard.
"""

import itertools
import random
from typing import Final

from algorithms.tasks.problem import Difficulty, NeededStep, SolvedProblem, answer_statement

NUM_DIGITS: Final = {"easy": (3, 3), "medium": (5, 4), "hard": (7, 6)}  # before and after
ORDINALS: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
QUESTIONS: Final = (
    "Convert the number {number} from base {source} to base {target}.",
    "The number {number} is written in base {source}. Write it in base {target}.",
    "What is the base {source} number {number} in base {target}?",
)
PLACE_VALUES: Final = (
    "The {ordinal} digit, {digit}, stands for {calculation}.",
    "The {ordinal} digit is {digit}, and its place value gives {calculation}.",
    "From the {ordinal} digit, {digit}, we get {calculation}.",
)
SUMS: Final = (
    "In decimal, the number is {0}.",
    "Adding these values, the number in decimal is {0}.",
    "The sum of the values is {0}.",
)
DIVISIONS: Final = (
    "Dividing {dividend} by {target} gives {quotient} with remainder {remainder}: {calculation}.",
    "We divide by {target}: {calculation}, so the remainder is {remainder}.",
    "When {dividend} is divided by {target}, the remainder is {remainder}, because {calculation}.",
)
READINGS: Final = (
    "Reading the remainders from last to first, we get {0}.",
    "From bottom to top, the remainders read {0}.",
    "Written in reverse order, the remainders give {0}.",
)


def generate(rng: random.Random, difficulty: Difficulty) -> SolvedProblem:
    """A number with as many digits, before and after, as the difficulty says. Bases are 2 to 9."""
    before, after = NUM_DIGITS[difficulty]
    ranges = []
    for source, target in itertools.permutations(range(2, 10), 2):
        least, most = max(source ** (before - 1), target ** (after - 1)), min(source**before, target**after) - 1
        if least + 10 <= most:
            ranges.append((source, target, least, most))
    source, target, least, most = rng.choice(ranges)
    value = rng.randint(least, most)
    digits = in_base(value, source)
    place, division = rng.choice(PLACE_VALUES), rng.choice(DIVISIONS)
    steps, parts = [], []
    for power, ordinal, digit in zip(range(before - 1, -1, -1), ORDINALS, digits, strict=False):
        expression, part = f"{digit} * {source}^{power}", int(digit) * source**power
        parts.append(str(part))
        text = place.format(ordinal=ordinal, digit=digit, calculation=f"{expression} = {part}")
        steps.append(NeededStep(text, f"the value of the {ordinal} digit", f"{part}", expression))
    total = " + ".join(parts)
    steps.append(NeededStep(rng.choice(SUMS).format(f"{total} = {value}"), "the number in decimal", f"{value}", total))
    dividend = value
    while dividend:
        quotient, remainder = divmod(dividend, target)
        product = f"{target} * {quotient} + {remainder}"
        text = division.format(
            dividend=dividend,
            target=target,
            quotient=quotient,
            remainder=remainder,
            calculation=f"{dividend} = {product}",
        )
        what, result = f"the result of dividing {dividend} by {target}", f"{quotient} with remainder {remainder}"
        steps.append(NeededStep(text, what, result, inverse=f"{product} = {dividend}"))
        dividend = quotient
    answer = in_base(value, target)
    steps.append(NeededStep(rng.choice(READINGS).format(answer), "the number that the remainders form", answer))
    return SolvedProblem(
        rng.choice(QUESTIONS).format(number=digits, source=source, target=target),
        f"the number in base {target}",
        (f"the number is {digits} in base {source}",),
        (*steps, answer_statement(answer)),
        answer,
    )


def in_base(value: int, base: int) -> str:
    """A positive number's digits in a base up to 10."""
    digits = ""
    while value:
        value, digit = divmod(value, base)
        digits = f"{digit}{digits}"
    return digits
