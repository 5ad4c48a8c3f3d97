"""A reasoning chain: a question, the steps that solve it, the answer.

Also how a text is split into steps and joined again, and which step states the answer. Knows nothing about tokens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# How a rationale is split into steps, and what joins them again: name -> (pattern, joiner).
SPLITS: Final[dict[str, tuple[str, str]]] = {
    "newline": (r"\n+", "\n"),
    "paragraph": (r"\n[ \t]*\n\s*", "\n\n"),
    # After . ! ? and closing marks, if something that opens a sentence follows.
    "sentence": (r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9$\\(\[\"'*])", " "),
}


@dataclass(frozen=True, slots=True)
class Chain:
    """One worked solution.

    `answer` is "" if the corpus does not have it. `joiner` stands between two steps, and between the question and the
    first step, wherever the chain is written as one text.
    """

    question: str
    steps: tuple[str, ...]
    answer: str
    joiner: str = "\n"


def split_steps(text: str, split: str) -> tuple[tuple[str, ...], str]:
    """The steps of a rationale and the joiner that puts them together again.

    `split` is a name in `SPLITS` or `regex:PATTERN`. Whitespace around a step is dropped, and so are steps of only
    whitespace. Raises ValueError for an unknown name or a pattern that does not compile.
    """
    pattern, joiner = split_pattern(split)
    pieces = (piece.strip() for piece in pattern.split(text))
    return tuple(piece for piece in pieces if piece), joiner


def split_pattern(split: str) -> tuple[re.Pattern[str], str]:
    """The compiled pattern and the joiner of a `--split` value."""
    if split.startswith("regex:"):
        try:
            pattern = re.compile(split.removeprefix("regex:"))
        except re.error as error:
            raise ValueError(f"split {split!r} is not a regular expression: {error}") from None
        if pattern.groups:
            # re.split would return the groups as steps.
            raise ValueError(f"split {split!r} has a capturing group: write (?:...) instead of (...)")
        return pattern, "\n"
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)} or regex:PATTERN")
    source, joiner = SPLITS[split]
    return re.compile(source), joiner


def answer_step(chain: Chain) -> int | None:
    """The index of the step that states the answer: the last step in which the answer stands alone.

    Thousands separators do not matter. If the answer is unknown, the last step states it. None if no step does.
    """
    if not chain.answer.strip():
        return len(chain.steps) - 1
    answer = _without_separators(chain.answer.strip())
    # "7" stands alone in "= 7.", but not in "17", "7.5" or "7/2".
    stated = re.compile(rf"(?<![\w./])(?<!\d,){re.escape(answer)}(?![\w/])(?!\.\d)")
    for index in range(len(chain.steps) - 1, -1, -1):
        if stated.search(_without_separators(chain.steps[index])):
            return index
    return None


def solution_text(question: str, steps: Sequence[str], answer: str, joiner: str) -> str:
    """The steps as one text, followed by the answer if no step states it."""
    is_stated = answer_step(Chain(question, tuple(steps), answer)) is not None
    return joiner.join(steps if is_stated else [*steps, answer])


def _without_separators(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
