r"""What kind of answer a question asks for, where the text of an answer alone does not tell.

A ratio 11:21 looks like a time of day, "3, 5" may be a point, 75\% is 0.75 if either may be given, and "12" is option
(C) if the question says so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from algorithms.answers.equivalence import equivalent, same
from algorithms.answers.structure import (
    Choice,
    Clock,
    Leaf,
    Matrix,
    Node,
    Quantity,
    Sequence,
    Values,
    is_balanced,
    parse_answer,
)
from algorithms.answers.units import Unit, parse_unit, surely_differ

RATIO: Final = re.compile(r"\bratios?\b|\bproportions?\b", re.IGNORECASE)
TIME: Final = re.compile(r"\b(?:what|which) time\b|\bwhen\b", re.IGNORECASE)
PAIR: Final = re.compile(r"\b(?:ordered (?:pair|triple|quadruple)|coordinates?|point)\b|\(\s*[a-z]\s*,\s*[a-z]\s*[,)]")
SHARE: Final = re.compile(r"\b(?:probability|chances?|fraction|portion|decimal|likely|odds)\b", re.IGNORECASE)
OPTION: Final = re.compile(
    r"(?:\\(?:text|mathrm)\w*\s*\{\s*)?\(([A-J])\)(?:\s*\})?|^[ \t]*([A-J])[.):](?=[ \t])", re.MULTILINE
)
OPENED: Final = re.compile(r"(?:\\(?:text|mathrm)\w*\s*\{\s*)+$")  # of the next option
SPACING: Final = re.compile(r"\\q?quad|\\ |~|\\hspace\{[^}]*\}")
HOUR: Final = re.compile(r"1?\d|2[0-4]")
RATIO_ANSWER: Final = re.compile(r"[\d.]+(?:\s*:\s*[\d.]+)+")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question asks for. `is_share`: a probability or fraction, which may be given in percent.

    `options` maps the letters of a multiple-choice question to their texts.
    """

    is_ratio: bool = False
    is_time: bool = False
    is_pair: bool = False
    is_share: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=256)
def asked_by(question: str) -> Asked:
    """What the text of a question asks for."""
    return Asked(
        RATIO.search(question) is not None,
        TIME.search(question) is not None,
        PAIR.search(question) is not None,
        SHARE.search(question) is not None,
        _options(question),
    )


def equal_as_asked(asked: Asked, gold: str, answer: str) -> bool:
    """Whether two answers to a question are equal. Raises UnparsableAnswer as `equivalent` does."""
    gold, answer = _by_option(asked, gold, answer)
    if equivalent(gold, answer):
        return True
    if asked.is_ratio and RATIO_ANSWER.fullmatch(gold.strip()) and RATIO_ANSWER.fullmatch(answer.strip()):
        return same(Leaf(gold.strip()), Leaf(answer.strip()))
    if asked.is_time and any(isinstance(parse_answer(text), Clock) for text in (gold, answer)):
        return equivalent(*(f"{text.strip()}:00" if HOUR.fullmatch(text.strip()) else text for text in (gold, answer)))
    if asked.is_pair and _is_bare_list(gold) != _is_bare_list(answer):
        return equivalent(*(f"({text})" if _is_bare_list(text) else text for text in (gold, answer)))
    return asked.is_share and _differ_by_percent(gold, answer)


def differ_only_in_unit(gold: str, answer: str) -> bool:
    """Whether two unequal answers have equal values, and their units may mean the same: balls and marbles, 0.5 and 50%.

    Units that surely differ, such as meters and seconds or feet and inches, make other answers.
    """
    if _differ_by_percent(gold, answer):
        return True
    one, other = parse_answer(gold), parse_answer(answer)
    if one is None or other is None:
        return False
    pairs = [(parse_unit(mine), parse_unit(theirs)) for mine in _units(one) for theirs in _units(other)]
    if not pairs or any(surely_differ(mine, theirs) or _differ_in_size(mine, theirs) for mine, theirs in pairs):
        return False
    return same(_without_units(one), _without_units(other))


def _differ_in_size(one: Unit, other: Unit) -> bool:
    return one.dimensions == other.dimensions != () and (one.size, one.pi) != (other.size, other.pi)


def _options(question: str) -> dict[str, str]:
    """The options of a question, if it lists at least two from A on."""
    question = re.sub(r"\[asy\].*?\[/asy\]", "", question, flags=re.DOTALL)
    marks = list(OPTION.finditer(question))
    letters = "".join(match[1] or match[2] for match in marks)
    start = letters.find("AB")
    if start < 0:
        return {}
    found: dict[str, str] = {}
    for index, match in enumerate(marks[start:], start):
        letter = letters[index]
        if letter != "ABCDEFGHIJ"[len(found)]:
            break
        end = marks[index + 1].start() if index + 1 < len(marks) else len(question)
        text = SPACING.sub(" ", question[match.end() : end]).split("\n\n")[0]
        text = OPENED.sub("", text).strip().rstrip("\\ ")
        text = text if is_balanced(text) else text.strip("{} ")
        found[letter] = text.strip().strip("$.,;").strip()
    return found


def _by_option(asked: Asked, gold: str, answer: str) -> tuple[str, str]:
    """Two answers, with the text of an option instead of its letter where only one of them is a letter."""
    if not asked.options:
        return gold, answer
    nodes = [parse_answer(text) for text in (gold, answer)]
    letters = [node.letter if isinstance(node, Choice) and node.chosen is None else None for node in nodes]
    if letters.count(None) != 1 or any(isinstance(node, Choice) and node.chosen is not None for node in nodes):
        return gold, answer
    texts = [
        asked.options.get(letter, text) if letter else text
        for letter, text in zip(letters, (gold, answer), strict=True)
    ]
    return texts[0], texts[1]


def _is_bare_list(text: str) -> bool:
    return isinstance(parse_answer(text), Values) and not re.search(r"[(\[{]", text)


def _differ_by_percent(gold: str, answer: str) -> bool:
    """Whether one answer is the other in percent: 75% and 0.75."""
    nodes = [parse_answer(text) for text in (gold, answer)]
    for percent, plain in (nodes, nodes[::-1]):
        if isinstance(percent, Quantity) and percent.unit == "%" and isinstance(plain, Leaf) and ":" not in plain.latex:
            value = percent.value
            return isinstance(value, Leaf) and same(Leaf(rf"\frac{{{value.latex}}}{{100}}"), plain)
    return False


def _without_units(node: Node) -> Node:
    if isinstance(node, Quantity):
        return _without_units(node.value)
    if isinstance(node, Values | Sequence):
        return replace(node, items=tuple(map(_without_units, node.items)))
    if isinstance(node, Matrix):
        return replace(node, rows=tuple(tuple(map(_without_units, row)) for row in node.rows))
    return node


def _units(node: Node | None) -> list[str]:
    if isinstance(node, Quantity):
        return [node.unit, *_units(node.value)]
    if isinstance(node, Values | Sequence):
        return [unit for item in node.items for unit in _units(item)]
    return []
