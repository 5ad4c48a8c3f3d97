"""Sizes of units of measure, so that 3 feet and 36 inches are equal.

Each dimension has an arbitrary base, so that quantities of different dimensions never agree. A word that is no
known unit, such as apples, is a dimension of its own.
"""

import zlib
from fractions import Fraction
from functools import lru_cache
from typing import Final

from algorithms.step_checks.numbers import Value, power

BASES: Final[dict[str, Fraction]] = {
    "inch": Fraction(1009), "centimeter": Fraction(1013), "second": Fraction(1019), "ounce": Fraction(1021),
    "gram": Fraction(1031), "cup": Fraction(1033), "milliliter": Fraction(1039), "dollar": Fraction(1),
}  # fmt: skip
# Base -> names and sizes in it.
SIZES: Final[dict[str, dict[str, int | Fraction]]] = {
    "inch": {"inch": 1, "inche": 1, "in": 1, "foot": 12, "feet": 12, "ft": 12, "yard": 36, "yd": 36, "mile": 63360,
             "mi": 63360},
    "centimeter": {"centimeter": 1, "cm": 1, "mm": Fraction(1, 10), "millimeter": Fraction(1, 10), "m": 100,
                   "meter": 100, "km": 100_000, "kilometer": 100_000},
    "second": {"second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600, "hr": 3600, "day": 86400, "week": 604800},
    "ounce": {"ounce": 1, "oz": 1, "pound": 16, "lb": 16, "ton": 32000},
    "gram": {"gram": 1, "g": 1, "kg": 1000, "kilogram": 1000, "mg": Fraction(1, 1000)},
    "cup": {"cup": 1, "pint": 2, "quart": 4, "gallon": 16},
    "milliliter": {"milliliter": 1, "ml": 1, "liter": 1000, "l": 1000},
    "dollar": {"dollar": 1, "cent": Fraction(1, 100), "penny": Fraction(1, 100), "nickel": Fraction(1, 20),
               "dime": Fraction(1, 10), "percent": Fraction(1, 100), "degree": 1, "dozen": 12},
}  # fmt: skip
SIZE: Final = {name: BASES[base] * size for base, names in SIZES.items() for name, size in names.items()}
POWERS: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


def stem(unit: str) -> str:
    """The unit in lower case and singular, without dots, powers and spaces."""
    name = unit.lower().replace(".", "").strip()
    return name if len(name) < 3 else name.removesuffix("s")


def is_measure(unit: str) -> bool:
    """Whether the size of the unit is known."""
    return _parts(unit)[0] in SIZE


def _parts(unit: str) -> tuple[str, int]:
    name, _, exponent = unit.partition("^")
    words = name.split()
    degree = int(exponent) if exponent else 1
    if len(words) == 2 and words[0].lower() in POWERS:
        return stem(words[1]), POWERS[words[0].lower()]
    return stem(name), degree


@lru_cache(maxsize=1024)
def size_of(unit: str) -> Value:
    """The size of a unit, to the power that its words or its exponent tell."""
    name, degree = _parts(unit)
    if name in SIZE:
        return power(SIZE[name], degree)
    return power(Fraction(1_000_003 + zlib.crc32(name.encode()) % 1_000_000), degree)
