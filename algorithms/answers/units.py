"""The dimension and the size of common units, so that 3 feet differ from 3 inches and 1 m equals 100 cm."""

import re
from typing import Final

# Unit -> its dimension, and its size in the base unit of that dimension.
UNITS: Final[dict[str, tuple[str, float]]] = {
    **dict.fromkeys(("mm", "millimeter", "millimeters"), ("length", 0.001)),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), ("length", 0.01)),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), ("length", 1.0)),
    **dict.fromkeys(("km", "kilometer", "kilometers"), ("length", 1000.0)),
    **dict.fromkeys(("in", "inch", "inches"), ("length", 0.0254)),
    **dict.fromkeys(("ft", "foot", "feet"), ("length", 0.3048)),
    **dict.fromkeys(("yd", "yard", "yards"), ("length", 0.9144)),
    **dict.fromkeys(("mi", "mile", "miles"), ("length", 1609.344)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("time", 1.0)),
    **dict.fromkeys(("min", "minute", "minutes"), ("time", 60.0)),
    **dict.fromkeys(("h", "hr", "hour", "hours"), ("time", 3600.0)),
    **dict.fromkeys(("day", "days"), ("time", 86400.0)),
    **dict.fromkeys(("week", "weeks"), ("time", 604800.0)),
    **dict.fromkeys(("g", "gram", "grams"), ("mass", 1.0)),
    **dict.fromkeys(("kg", "kilogram", "kilograms"), ("mass", 1000.0)),
    **dict.fromkeys(("month", "months"), ("time", 2_629_746.0)),
    **dict.fromkeys(("year", "years"), ("time", 31_556_952.0)),
    **dict.fromkeys(("oz", "ounce", "ounces"), ("mass", 28.349523125)),
    **dict.fromkeys(("lb", "lbs", "pound", "pounds"), ("mass", 453.59237)),
    **dict.fromkeys(("ml", "milliliter", "milliliters"), ("volume", 0.001)),
    **dict.fromkeys(("l", "liter", "liters", "litre", "litres"), ("volume", 1.0)),
    **dict.fromkeys(("pint", "pints"), ("volume", 0.473176473)),
    **dict.fromkeys(("qt", "quart", "quarts"), ("volume", 0.946352946)),
    **dict.fromkeys(("gal", "gallon", "gallons"), ("volume", 3.785411784)),
    **dict.fromkeys(("mph", "miles per hour"), ("speed", 1.609344)),
    **dict.fromkeys(("kph", "kmh", "km/h", "km/hr", "kilometers per hour"), ("speed", 1.0)),
    **dict.fromkeys(("dollar", "dollars"), ("money", 100.0)),
    **dict.fromkeys(("cent", "cents"), ("money", 1.0)),
    **dict.fromkeys(("degree", "degrees"), ("angle in degrees", 1.0)),
    **dict.fromkeys(("rad", "radian", "radians"), ("angle in radians", 1.0)),
}


def measure(unit: str) -> tuple[str, float]:
    """The dimension of a unit ("" if unknown) and its size."""
    if unit == "%" or unit.startswith(("mod ", "degrees ")):
        return unit, 1.0
    if unit in UNITS:
        return UNITS[unit]
    match = re.fullmatch(r"(square |cubic )?([a-z]+?)\s*([23])?", unit.replace(".", ""))
    if match is None or match[2] not in UNITS:
        return "", 1.0
    kind, size = UNITS[match[2]]
    power = {"square ": 2, "cubic ": 3}.get(match[1] or "", int(match[3] or 1))
    return (f"{kind}^{power}", size**power) if power > 1 else (kind, size)
