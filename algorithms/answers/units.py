"""Units of measurement and of counting: what they measure, their exact size, and what they count.

A unit is read from its words: "meters per second", "square feet", "km/h", "tons of sand", "red balls". Sizes are exact
fractions of a base unit, so that 1 mile per hour is exactly 0.44704 m/s.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

# Dimension and power -> size in base units -> spellings in the singular. Volumes are cubes of lengths.
MEASURES: Final[dict[tuple[str, int], dict[str, str]]] = {
    ("length", 1): {
        "0.001": "mm millimeter millimetre", "0.01": "cm centimeter centimetre", "1": "m meter metre",
        "1000": "km kilometer kilometre", "0.0254": "in inch", "0.3048": "ft foot", "0.9144": "yd yard",
        "1609.344": "mi mile",
    },
    ("length", 2): {"4046.8564224": "acre", "10000": "hectare"},
    ("length", 3): {
        "0.000001": "ml milliliter millilitre cc", "0.001": "l liter litre", "0.00000492892159375": "tsp teaspoon",
        "0.00001478676478125": "tbsp tablespoon", "0.0002365882365": "cup", "0.000473176473": "pt pint",
        "0.000946352946": "qt quart", "0.003785411784": "gal gallon",
    },
    ("time", 1): {
        "0.001": "ms millisecond", "1": "s sec second", "60": "min minute", "3600": "h hr hour", "86400": "day",
        "604800": "wk week", "2629746": "month", "31556952": "yr year", "315569520": "decade",
        "3155695200": "century",
    },
    ("mass", 1): {
        "0.001": "mg milligram", "1": "g gram", "1000": "kg kilogram", "28.349523125": "oz ounce",
        "453.59237": "lb pound", "907184.74": "ton", "1000000": "tonne",
    },
    ("dollars", 1): {"1": "cent", "100": "dollar usd"},
    ("euros", 1): {"1": "euro"},
    ("sterling", 1): {"1": "gbp"},
    ("yen", 1): {"1": "yen"},
    ("angle", 1): {"1": "degree deg", "1/60": "arcminute", "1/3600": "arcsecond", "180": "rad radian"},  # rad: over pi
    ("Celsius", 1): {"1": "celsius"},
    ("Fahrenheit", 1): {"1": "fahrenheit"},
    ("force", 1): {"1": "newton"},
    ("energy", 1): {"1": "joule"},
    ("power", 1): {"1": "watt", "1000": "kw kilowatt"},
    ("data", 1): {"1": "bit", "8": "byte"},
    ("percent", 1): {"1": "% percent"},
}  # fmt: skip
WORDS: Final = {
    word: (dimension, power, Fraction(size))
    for (dimension, power), sizes in MEASURES.items()
    for size, spellings in sizes.items()
    for word in spellings.split()
}
RADIANS: Final = ("rad", "radian")
SPEEDS: Final = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "mpg": "mi/gal", "fps": "ft/s"}
# Letters and words that are a unit only where a unit must begin: "5 m", "5 in", but not "5 students in total".
ONLY_FIRST: Final = frozenset(("m", "s", "h", "g", "l", "in", "second"))
IRREGULAR: Final = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose",
    "feet": "foot", "teeth": "tooth", "dice": "die", "leaves": "leaf", "loaves": "loaf", "knives": "knife",
    "halves": "half", "vertices": "vertex", "matrices": "matrix", "pennies": "penny", "buses": "bus",
}  # fmt: skip
# Words that say the same of a count: the first stands for all.
SYNONYMS: Final = {
    word: words.split()[0]
    for words in (
        "way combination arrangement possibility choice outcome permutation method option sequence ordering selection",
        "number integer value digit solution factor divisor multiple element term",
        "person student pupil individual member child kid man woman",
        "profit gain", "figure shape", "place position",
    )
    for word in words.split()
}  # fmt: skip
# Words that name nothing.
FILLERS: Final = frozenset((
    "of", "the", "a", "an", "in", "to", "and", "for", "each", "all", "total", "altogether", "them", "these", "those",
    "that", "which", "different", "distinct", "possible", "whole", "exactly", "about", "approximately", "long", "old",
    "tall", "wide", "high", "deep", "left", "remaining", "more", "other", "away", "apart", "unit",
))  # fmt: skip
# Names of which an answer may be only one.
CONTRASTS: Final = tuple(
    frozenset(words.split())
    for words in (
        "north south east west northeast northwest southeast southwest", "profit loss", "up down", "above below",
        "before after", "boy girl", "man woman", "father mother", "win loss draw", "penny nickel dime quarter",
        "red blue green yellow orange black white purple brown pink gray silver gold", "odd even", "day night",
        "clockwise counterclockwise", "adult child", "increase decrease",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit measures: dimensions with powers, its size in base units (over pi ** `pi`), and what it counts."""

    dimensions: tuple[tuple[str, int], ...] = ()
    size: Fraction = Fraction(1)
    pi: int = 0
    names: frozenset[str] = frozenset()


@lru_cache(maxsize=4096)
def parse_unit(text: str) -> Unit:
    """The unit that some words name. Words that measure nothing are what it counts."""
    if text.startswith("mod "):
        return Unit(names=frozenset((text,)))
    dimensions: Counter[str] = Counter()
    size, pi, names = Fraction(1), 0, set()
    for word, power in _factors(text):
        if word in WORDS:
            dimension, own_power, own_size = WORDS[word]
            dimensions[dimension] += own_power * power
            size *= own_size**power
            pi += power * (word in RADIANS)
        elif word not in FILLERS:
            names.add(("per " if power < 0 else "") + word)
    return Unit(tuple(sorted((name, power) for name, power in dimensions.items() if power)), size, pi, frozenset(names))


def are_compatible(one: Unit, other: Unit) -> bool:
    """Whether two units can belong to the same quantity: one measure, and neither counts what the other does not.

    Only one of two units may have more names than the other: 7 distinct integers are 7 integers, but red balls are no
    blue balls. What has a measure is no count: 5 dollars are not 5 books.
    """
    if one.dimensions and other.dimensions and one.dimensions != other.dimensions:
        return False
    mine, others = ({SYNONYMS.get(name, name) for name in unit.names} for unit in (one, other))
    if one.dimensions and not other.dimensions:
        return others <= mine
    if other.dimensions and not one.dimensions:
        return mine <= others
    return (mine <= others or others <= mine) and not _exclude(one, other)


def surely_differ(one: Unit, other: Unit) -> bool:
    """Whether two units differ whatever the question is: meters and seconds, north and south.

    Balls and marbles may be the same, and so may dollars and dollars per hour.
    """
    measured, others = ([each for each in unit.dimensions if each[1] > 0] for unit in (one, other))
    return (bool(measured and others) and measured != others) or _exclude(one, other)


def _exclude(one: Unit, other: Unit) -> bool:
    return any(one.names & group and other.names & group and not one.names & other.names & group for group in CONTRASTS)


def _factors(text: str) -> Iterator[tuple[str, int]]:
    """The words of a unit in the singular, each with its power; it is negative after "per" and "/"."""
    text = re.sub(r"(?<=[a-z])\.(?=\s|$)", "", text.lower())  # sq. ft.
    for speed, meaning in SPEEDS.items():
        text = re.sub(rf"\b{speed}\b", meaning, text)
    sign, power, is_first = 1, 1, True
    for match in re.finditer(r"/|%|([a-z][a-z'’-]*)\s*(?:\^?\s*\{?\s*([23])\b)?", text):
        word, exponent = match[1] or match[0], match[2]
        if word in ("/", "per"):
            sign, is_first = -1, True
        elif word in ("square", "squared", "sq", "cubic", "cubed", "cu"):
            power = 3 if word.startswith("cu") else 2
        else:
            name = word if word in WORDS else singular(word)
            if name in ONLY_FIRST and not is_first:
                name = "the"
            yield name, sign * int(exponent or power)
            power, is_first = 1, False


def singular(word: str) -> str:
    """The singular of an English noun, well enough to compare nouns."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) < 3 or re.search(r"(?:ss|us|is)$", word):
        return word
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if re.search(r"(?:ss|x|ch|sh)es$", word) else word.removesuffix("s")
