r"""The form of a stated answer, and whether it is a form that the question asks for.

Cheap facts from regular expressions, without SymPy. A probability of 3, "how many" answered by \frac{7}{2}, or a
remainder above the divisor is wrong whatever led to it.
"""

import math
import re
from fractions import Fraction
from typing import Final

from algorithms.answers.cleaning import clean
from algorithms.answers.demands import demand_of

LONGEST: Final = 300  # characters of an answer that are looked at
KINDS: Final = (
    "none", "integer", "decimal", "fraction", "root", "pi", "percent", "money", "pair", "interval", "matrix",
    "equation", "polynomial", "words", "other",
)  # fmt: skip
INTEGER: Final = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+|[-+]?\d+")
DECIMAL: Final = re.compile(r"[-+]?\d*\.\d+")
FRACTION: Final = re.compile(r"([-+]?)\\[dt]?frac\{([-+]?\d{1,18})\}\{(\d{1,18})\}|([-+]?)(\d{1,18})/(\d{1,18})")
NUMBER: Final = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")

# Question -> what it asks for. Checked in this order; a question may ask for several.
ASKED: Final = {
    "how_many": r"\bhow many\b|\bnumber of\b",
    "probability": r"\bprobability\b|\bchances?\b|\blikely\b",
    "percent": r"\bpercent|\\%",
    "remainder": r"\bremainder\b|\bresidue\b|\bmod(?:ulo)?\b",
    "digit": r"\bdigit\b",
    "fraction": r"\bcommon fraction\b|\bfraction\b",
    "decimal": r"\bdecimal\b|\bnearest (?:tenth|hundredth|thousandth)\b",
    "integer": r"\bintegers?\b|\bnearest whole\b|\bwhole number\b",
    "positive": r"\bpositive\b",
    "angle": r"\bdegrees?\b|\bradians?\b|\bangle\b",
    "length": r"\b(?:area|length|perimeter|volume|distance|radius|circumference|side)\b",
    "money": r"\b(?:dollars?|cents?|cost|price)\b|\\\$",
    "pair": r"\bordered\b|\bcoordinates?\b|\bpoint\b|\(\s*[a-z]\s*,\s*[a-z]\s*\)",
    "terms_of": r"\bin terms of\b|\bas an? (?:function|expression|polynomial)\b|\bsimplify\b|\bexpand\b|\bfactor\b",
    "radical": r"\bradical\b|\bsimplest form\b|\\sqrt",
    "interval": r"\binterval\b|\brange\b|\bdomain\b",
    "base": r"\bbase[- ]?\$?\d|_\{?\d+\}?",
    "all_values": r"\ball (?:real |complex |possible |integer )?(?:values|solutions|roots|numbers)\b",
    "largest": r"\b(?:largest|greatest|maximum|maximal|most)\b",
    "smallest": r"\b(?:smallest|least|minimum|minimal|fewest)\b",
    "evaluate": r"\b(?:evaluate|compute|calculate|simplify)\b",
}
ASKED_PATTERNS: Final = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in ASKED.items()}


def kind_of(answer: str | None) -> str:
    """One of KINDS."""
    if answer is None or not answer.strip():
        return "none"
    text = answer[:LONGEST]
    bare = re.sub(r"\s+|\\[,;!]|\^\\circ|\\circ", "", text)
    for kind, found in (
        ("percent", r"%"),
        ("money", r"\\?\$\d"),
        ("matrix", r"matrix|array"),
        ("interval", r"[\[(][^,]*,[^,]*\]|[\[][^,]*,[^,]*[)]|\\infty|\\cup"),
        ("equation", r"=|<|>|\\le|\\ge"),
    ):
        if re.search(found, bare):
            return kind
    if INTEGER.fullmatch(bare):
        return "integer"
    if DECIMAL.fullmatch(bare):
        return "decimal"
    if FRACTION.fullmatch(bare):
        return "fraction"
    if re.search(r"\\text|\\mathrm|[a-zA-Z]{4,}", re.sub(r"\\[a-zA-Z]+", "", bare)):
        return "words"
    if "," in bare:
        return "pair"
    if re.search(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])", re.sub(r"\\[a-zA-Z]+", " ", bare)):
        return "polynomial"
    return "root" if "sqrt" in bare else "pi" if "pi" in bare else "other"


def value_of(answer: str | None) -> float | None:
    """The number that an answer is, None if it is not plainly one."""
    if answer is None:
        return None
    bare = re.sub(r"\s+|\\[,;!$%]|[$%]|\^?\\circ", "", answer[:LONGEST]).removesuffix(".")
    if INTEGER.fullmatch(bare) and len(bare) < 40:
        return float(bare.replace(",", ""))
    if DECIMAL.fullmatch(bare):
        return float(bare)
    if (found := FRACTION.fullmatch(bare)) is not None:
        sign, top, bottom = found[1] or found[4] or "", found[2] or found[5], found[3] or found[6]
        return None if int(bottom) == 0 else float(Fraction(int(top), int(bottom))) * (-1 if sign == "-" else 1)
    return None


def asked_facts(question: str) -> dict[str, float]:
    """What a question asks for: 1 or 0 for each of ASKED."""
    return {f"asks_{name}": float(pattern.search(question) is not None) for name, pattern in ASKED_PATTERNS.items()}


def answer_facts(question: str, solution: str, answer: str | None) -> dict[str, float]:
    """Facts about an answer beside its question. NaN where a fact does not apply."""
    nan = math.nan
    kind, value = kind_of(answer), value_of(answer)
    text = (answer or "")[:LONGEST]
    is_number = value is not None
    magnitude = math.log10(1 + abs(value)) if value is not None else nan
    numbers = {float(found.replace(",", "")) for found in NUMBER.findall(question[:5000])}
    before = solution[: solution.rfind("\\boxed")] if "\\boxed" in solution else solution
    stated = text.strip()
    tidy = [holds(clean(text)) for holds in demand_of(question).tidy] if text else []
    return {
        "kind": float(KINDS.index(kind)),
        "is_number": float(is_number),
        "is_integer": float(value.is_integer()) if value is not None else nan,
        "is_negative": float(value < 0) if value is not None else nan,
        "is_share": float(0 <= value <= 1) if value is not None else nan,
        "is_zero": float(value == 0) if value is not None else nan,
        "is_one": float(value == 1) if value is not None else nan,
        "is_round": float(value != 0 and value % 10 == 0) if value is not None else nan,
        "is_even": float(value % 2 == 0) if value is not None and value.is_integer() else nan,
        "magnitude": magnitude,
        "num_digits": float(sum(map(str.isdigit, text))),
        "num_decimals": float(len(text.rsplit(".", 1)[1])) if kind == "decimal" else nan,
        "answer_length": float(len(stated)),
        "is_in_question": float(abs(value) in numbers) if value is not None else nan,
        "above_all_in_question": float(abs(value) > max(numbers)) if value is not None and numbers else nan,
        "times_before": float(min(20, before.count(stated))) if stated else nan,
        "num_boxed": float(solution.count("\\boxed")),
        "meets_demand": float(all(tidy)) if tidy else nan,
        **_misfits(question, kind, value),
    }


def _misfits(question: str, kind: str, value: float | None) -> dict[str, float]:
    """Whether the answer cannot be what is asked for. NaN where nothing of the sort is asked for."""
    asks = {name for name, pattern in ASKED_PATTERNS.items() if pattern.search(question)}
    nan = math.nan
    count = nan
    if re.search(r"\bhow many\b", question, re.IGNORECASE) and "percent" not in asks:
        count = float(kind not in ("integer", "words") or (value is not None and value < 0))
    share = float(value is not None and not 0 <= value <= 1) if "probability" in asks and kind != "percent" else nan
    remainder = nan
    if (found := re.search(r"divided by \$?(\d{1,9})\b(?!\^|\s*\^)|\\pmod\s*\{?(\d{1,9})\}?", question)) is not None:
        limit = int(found[1] or found[2])
        if "remainder" in asks:
            remainder = float(value is None or not (value.is_integer() and 0 <= value < limit))
    digit = nan
    if re.search(r"\b(?:units|ones|tens|hundreds|last) digit\b", question, re.IGNORECASE):
        digit = float(value is None or not (value.is_integer() and 0 <= value <= 9))
    fraction = float(kind not in ("fraction", "integer")) if "common fraction" in question else nan
    positive = float(value is not None and value <= 0) if "positive" in asks else nan
    return {
        "misfits_count": count,
        "misfits_share": share,
        "misfits_remainder": remainder,
        "misfits_digit": digit,
        "misfits_fraction": fraction,
        "misfits_positive": positive,
    }
