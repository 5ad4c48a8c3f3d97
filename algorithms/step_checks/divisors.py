"""Whole numbers in words: remainders, divisors and multiples, primes; as claims, and as what a question asks for."""

import math
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

from algorithms.step_checks.claims import Claim
from algorithms.step_checks.context import is_denied
from algorithms.step_checks.evaluation import evaluate
from algorithms.step_checks.expressions import Unparsable
from algorithms.step_checks.parsing import parse
from algorithms.step_checks.tokens import tokens_of

MAX_NUMBER: Final = 10**9  # trial division takes a few milliseconds


@lru_cache(maxsize=1024)
def factors(number: int) -> tuple[int, ...]:
    """The distinct prime factors of a number of at most MAX_NUMBER."""
    found, divisor, rest = [], 2, number
    while divisor * divisor <= rest:
        if rest % divisor == 0:
            found.append(divisor)
            while rest % divisor == 0:
                rest //= divisor
        divisor += 1 if divisor == 2 else 2
    return tuple([*found, rest] if rest > 1 else found)


def divisors(number: int) -> list[int]:
    """The positive divisors of a number, in no order."""
    found = [1]
    for prime in factors(number):
        powers = [1]
        while number % (powers[-1] * prime) == 0:
            powers.append(powers[-1] * prime)
        found = [each * power for each in found for power in powers]
    return found


N: Final = r"\$?(\d{1,12})\$?"
TWO: Final = rf"{N}(?:,? and|,) {N}\s*[.?]"
ASK: Final = r"\b(?:what is|find|compute|determine|calculate|what's) the "
ALL: Final = r"(?:distinct )?positive (?:integer )?(?:divisors|factors)"
QUESTIONS: Final[tuple[tuple[re.Pattern[str], Callable[[int, int], int]], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), answer)
    for pattern, answer in (
        (rf"{ASK}greatest common (?:divisor|factor) of {TWO}", math.gcd),
        (rf"{ASK}(?:least|lowest) common multiple of {TWO}", math.lcm),
        (rf"how many {ALL} does {N}() have", lambda n, _: len(divisors(n))),
        (rf"how many {ALL} of {N}() are there", lambda n, _: len(divisors(n))),
        (rf"{ASK}sum of (?:all )?(?:of )?the {ALL} of {N}()\s*[.?]", lambda n, _: sum(divisors(n))),
        (rf"{ASK}(?:greatest|largest) prime (?:factor|divisor) of {N}()\s*[.?]", lambda n, _: max(factors(n))),
        (rf"{ASK}smallest prime (?:factor|divisor) of {N}()\s*[.?]", lambda n, _: min(factors(n))),
    )
)
OF_NUMBER: Final = r"(?:the (?:number|sum|product) )?\$([^$]{1,300})\$"
REMAINDER: Final = re.compile(
    rf"{ASK}remainder (?:when|if|of) {OF_NUMBER} is divided by \$?(\d{{1,9}})\$?\s*[.?]", re.IGNORECASE
)
LAST_DIGIT: Final = re.compile(rf"{ASK}(?:units|ones) digit of {OF_NUMBER}()\s*[.?]", re.IGNORECASE)


def asked_of_integers(question: str) -> int | None:
    """The number that a question about divisors or remainders asks for, if it is plain."""
    for pattern, answer in QUESTIONS:
        if match := pattern.search(question):
            first, second = int(match[1]), int(match[2] or 0)
            return answer(first, second) if 1 < first <= MAX_NUMBER else None
    match = REMAINDER.search(question) or LAST_DIGIT.search(question)
    if match is None:
        return None
    value = _whole(question, match.start(1), match.end(1))
    modulus = int(match[2] or 10)
    return value % modulus if value is not None and modulus else None


def _whole(text: str, start: int, end: int) -> int | None:
    try:
        value = evaluate(parse(tokens_of(text, start, end, is_formula=True)))
    except (Unparsable, ArithmeticError, TypeError):
        return None
    return value if isinstance(value, int) else None


ALONE: Final = r"(?<![^a-z,;.:] )(?<!cdot )(?<!times )(?<!equiv )(?<!and )(?<!to )(?<=\s)"  # no part of a longer one
A: Final = r"\$?(?P<a>\d[\d,]{0,14})\$?"
B: Final = r"\$?(?P<b>\d[\d,]{0,14})\$?"
C: Final = r"\$?(?:\\boxed\{)?(?P<c>\d[\d,]{0,14})"
END: Final = r"(?![\d^!/]|\.\d|,\d|\s*\\(?:cdot|times)|\s*[-+*^/])"
PRIME: Final = r"is (?P<not>not )?(?:a )?prime(?! (?:factor|to|power|div))"
DIVISIBLE: Final = "is (?P<not>not )?(?:(?:evenly )?divisible by|a multiple of)"
LEAVES: Final = r"(?:leaves|has|gives) a remainder (?:of )?"


def _has_remainder(match: re.Match[str]) -> bool | None:
    divisor = _integer(match["b"])
    return _integer(match["a"]) % divisor == _integer(match["c"]) if divisor else None


def _is_divisible(match: re.Match[str]) -> bool | None:
    divisor = _integer(match["b"])
    return (_integer(match["a"]) % divisor == 0) != bool(match["not"]) if divisor else None


def _is_prime(match: re.Match[str]) -> bool | None:
    number = _integer(match["a"])
    return (factors(number) == (number,)) != bool(match["not"]) if number <= MAX_NUMBER else None


def _is_divisor(match: re.Match[str]) -> bool | None:
    return math.gcd(_integer(match["a"]), _integer(match["b"])) == _integer(match["c"])


def _is_multiple(match: re.Match[str]) -> bool | None:
    return math.lcm(_integer(match["a"]), _integer(match["b"])) == _integer(match["c"])


def _integer(text: str) -> int:
    return int(text.replace(",", ""))


# A word of the claim, for speed; its pattern; its check.
CLAIMS: Final = tuple(
    (word, re.compile(pattern), check)
    for word, pattern, check in (
        ("remainder", rf"remainder when {A} is divided by {B} is {C}{END}", _has_remainder),
        ("remainder", rf"{ALONE}{A} divided by {B} {LEAVES}{C}{END}", _has_remainder),
        ("is ", rf"{ALONE}{A} {DIVISIBLE} {B}{END}", _is_divisible),
        ("prime", rf"{ALONE}{A} {PRIME}", _is_prime),
        ("common", rf"greatest common (?:divisor|factor) of {A} and {B} is {C}{END}", _is_divisor),
        ("GC", rf"(?:GCD|GCF) of {A} and {B} is {C}{END}", _is_divisor),
        ("common", rf"least common multiple of {A} and {B} is {C}{END}", _is_multiple),
        ("LCM", rf"LCM of {A} and {B} is {C}{END}", _is_multiple),
    )
)


def divisor_claims(text: str) -> Iterator[Claim]:
    """The claims about remainders, divisors, multiples and primes that a text states in words."""
    for word, pattern, check in CLAIMS:
        if word not in text:
            continue
        for match in pattern.finditer(text):
            verdict = check(match)
            if verdict is False and is_denied(text, match.start(), match.end()):
                verdict = None
            yield Claim(match.start(), match.end(), "divisibility", verdict)
