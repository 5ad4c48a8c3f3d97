r"""Kinds of answers that a vote can be about, beside mathematics: a number, an option, a text, a field of JSON.

    mathematics  the stated answer (`extraction`), compared as mathematics (`equivalence`)
    number       the same, and the last number of a text that states no answer
    choice       the letter of an option: "(B)", "the answer is C", "\boxed{D}"
    text         what follows "answer:", or the whole text; case, spacing and final punctuation do not count
    json         a field of the last JSON object in the text, compared by value

The text in <think> tags never counts. To add a kind: a function that reads a text, one that compares two answers, and
an entry in KINDS. Nothing here limits time: call it in a process that can be killed.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from algorithms.answers.equivalence import check_parsable, equivalent
from algorithms.answers.extraction import extract
from algorithms.answers.structure import UnparsableAnswer
from algorithms.prompts import INSTRUCTION

LETTER: Final = re.compile(r"(?:\\(?:text|mathrm|textbf|mathbf)\w*\s*\{\s*)?\(?\s*([A-Z])\s*\)?(?=$|[\s.:,;)}])")
OPTION: Final = re.compile(r"\(([A-Z])\)|\b(?:option|choice)\s+\(?([A-Z])\b", re.IGNORECASE)
ANSWER: Final = re.compile(r"\banswer[\s*]{0,8}(?:is\b|:)[\s*]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AnswerKind:
    """How a text states an answer, and when two answers are equal.

    `read` takes the text and the kind's argument and returns None if no answer is stated. `equal` may raise anything,
    which means no.
    """

    description: str
    instruction: str  # that makes a model state such an answer
    read: Callable[[str, str | None], str | None]
    equal: Callable[[str, str], bool]
    argument: str | None = None  # what the kind must be told


def _read_mathematics(text: str, _: str | None) -> str | None:
    return _parsable(text, last_number=False)


def _read_number(text: str, _: str | None) -> str | None:
    return _parsable(text, last_number=True)


def _parsable(text: str, *, last_number: bool) -> str | None:
    """The stated answer, None if there is none or nobody could compare it."""
    found = extract(text, last_number=last_number)
    if found is None:
        return None
    try:
        check_parsable(found.answer)
    except UnparsableAnswer:
        return None
    return found.answer.strip()


def _read_choice(text: str, _: str | None) -> str | None:
    text = _visible(text)
    found = extract(text)
    stated = LETTER.match(found.answer.strip()) if found is not None else None
    if stated is not None:
        return stated[1]
    if re.fullmatch(r"\W*[A-Za-z]\W*", text):
        return text.strip(" \t\n.*():").upper()[:1] or None
    options = [one or other for one, other in OPTION.findall(text)]
    return options[-1].upper() if options else None


def _read_text(text: str, _: str | None) -> str | None:
    text = _visible(text)
    marks = list(ANSWER.finditer(text))
    return (text[marks[-1].end() :] if marks else text).strip() or None


def _equal_texts(one: str, other: str) -> bool:
    return _plain(one) == _plain(other)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!?\"'*`")


def _read_json(text: str, path: str | None) -> str | None:
    value = _last_object(_visible(text))
    for name in (path or "").split("."):
        if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return None
    return json.dumps(_same_numbers(value), sort_keys=True, ensure_ascii=False)


def _same_numbers(value: Any) -> Any:
    """A JSON value in which 2.0 is written as 2."""
    if isinstance(value, dict):
        return {name: _same_numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_same_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _last_object(text: str) -> Any:
    """The last outermost JSON object in a text, None without one."""
    decoder, last, start = json.JSONDecoder(), None, text.find("{")
    while start >= 0:
        try:
            last, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    return last


def _visible(text: str) -> str:
    return text.rsplit("</think>", 1)[-1]


DEFAULT: Final = "mathematics"
KINDS: Final[dict[str, AnswerKind]] = {
    DEFAULT: AnswerKind("the stated answer, compared as mathematics", INSTRUCTION, _read_mathematics, equivalent),
    "number": AnswerKind("as mathematics, or else the last number", INSTRUCTION, _read_number, equivalent),
    "choice": AnswerKind(
        "the letter of an option",
        'Think step by step, and end with "The answer is (X)", where X is the letter of an option.',
        _read_choice,
        str.__eq__,
    ),
    "text": AnswerKind(
        'what follows "answer:", or the whole text',
        'Think step by step, and end with "Answer:" and the answer.',
        _read_text,
        _equal_texts,
    ),
    "json": AnswerKind("a field of the last JSON object", "", _read_json, str.__eq__, "the field's name: a.b.0"),
}
MATHEMATICAL: Final = frozenset({DEFAULT, "number"})
