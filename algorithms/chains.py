"""A reasoning chain: a question, the steps that solve it, the answer.

Also how one text becomes steps, and which step states the answer. Knows nothing of tokens.
"""

import re
from dataclasses import dataclass
from typing import Final

# How a rationale is cut into steps, and what joins them again: name -> (pattern, joiner).
SPLITS: Final[dict[str, tuple[str, str]]] = {
    "newline": (r"\n+", "\n"),
    "paragraph": (r"\n[ \t]*\n\s*", "\n\n"),
    # After . ! ? and closing marks, when something that opens a sentence follows.
    "sentence": (r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9$\\(\[\"'*])", " "),
}


@dataclass(frozen=True, slots=True)
class Chain:
    """One worked solution.

    `answer` is "" where the corpus does not know it. `joiner` stands between two steps, and between the
    question and the first one, wherever the chain is written as one text.
    """

    question: str
    steps: tuple[str, ...]
    answer: str
    joiner: str = "\n"


def split_steps(text: str, split: str) -> tuple[tuple[str, ...], str]:
    """The steps of a rationale and the joiner that puts them together again.

    `split` is a name in `SPLITS` or `regex:PATTERN`. Whitespace around a step is dropped, and so are steps
    of nothing else. Raises ValueError for an unknown name or a pattern that does not compile.
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
            # re.split would return the groups as if they were steps.
            raise ValueError(f"split {split!r} has a capturing group: write (?:...) instead of (...)")
        return pattern, "\n"
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)} or regex:PATTERN")
    source, joiner = SPLITS[split]
    return re.compile(source), joiner


def answer_step(chain: Chain) -> int | None:
    """Index of the step that states the answer: the last one in which it stands by itself.

    Thousands separators do not matter. A chain whose answer is unknown states it in its last step. None if
    no step states it.
    """
    if not chain.answer.strip():
        return len(chain.steps) - 1
    answer = _plain(chain.answer.strip())
    # "7" stands by itself in "= 7." but neither in "17", "7.5" nor "7/2".
    stated = re.compile(rf"(?<![\w./])(?<!\d,){re.escape(answer)}(?![\w/])(?!\.\d)")
    for index in range(len(chain.steps) - 1, -1, -1):
        if stated.search(_plain(chain.steps[index])):
            return index
    return None


def _plain(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
