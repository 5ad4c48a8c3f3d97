r"""Markup inside a text: the spans that no split may cut, and whether what opens is closed again.

Knows TeX mathematics (`$`, `$$`, `\(`, `\[`, environments, braces), Asymptote drawings, code and Markdown tables. A
dollar sign before a number may mean money; `_is_money` decides.
"""

import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["inline", "display"]

# Spans that hold no other markup: code, drawings, tables with outer bars or with a row of dashes under the header.
VERBATIM: Final = re.compile(
    r"""^[ \t]*(?P<fence>```+|~~~+).*\n(?:(?![ \t]*(?P=fence)).*\n)*+[ \t]*(?P=fence)[ \t]*$
      |(?<!`)`(?:[^`'\n]|'[^`'\n]*')+`(?!`)
      |\[asy\](?:[^\[]|\[(?!/?asy\]))*+\[/asy\]
      |^[ \t]*\|.*\|[ \t]*(?:\n[ \t]*\|.*\|[ \t]*)+$
      |^[^\n|]*\|.*\n[ \t]*\|?[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t]*:?-{2,}:?[ \t]*)+\|?[ \t]*(?:\n[^\n|]*\|.*)*$""",
    re.MULTILINE | re.VERBOSE,
)
UNCLOSED: Final = re.compile(r"\[/?asy\]|^[ \t]*(?:```|~~~)", re.MULTILINE)  # of a verbatim span
# `\\[2pt]` is a line break with a length, not the start of a display.
MARK: Final = re.compile(
    r"\\\\|\\(?P<environment>begin|end)\s*\{(?P<name>[^{}\n]*)\}|(?P<mark>\\[()\[\]]|\$\$?|[{}]|\n[ \t]*\n)|\\[^\n]"
)
ANY_MARKUP: Final = re.compile(r"[\\$`~{}|\[]")  # every kind of markup has one of these; most steps have none
CLOSING: Final = {r"\(": r"\)", r"\[": r"\]", "{": "}", "$": "$", "$$": "$$"}
IN_PARAGRAPH: Final = ("$", "}", r"\)")  # what closes a formula in a line of text, which no blank line interrupts
NUMBER: Final = re.compile(r"\s*(?:<<)?-?\.?\d")  # `<<` opens a calculation of GSM8K
TEXT_COMMAND: Final = re.compile(r"\\(?:text\w*|mbox|mathrm)\s*\{[^{}]*\}")
# What stands between an amount of money and the next dollar sign, and not inside mathematics.
PROSE: Final = re.compile(
    r"(?<![\\\w{])(?:the|an|for|of|is|he|she|it|they|then|are|was|per|each|from|with|than|more|less|which|that|this"
    r"|dollars?|cents?)(?![\w}])|[.!?]\s+[A-Z]"
)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of markup, text[start:end]. A `display` stands apart from the sentence around it."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Markup:
    """The outermost spans of a text in order, and whether everything that opens is closed."""

    spans: tuple[Span, ...]
    is_balanced: bool


def parse_markup(text: str) -> Markup:
    """The markup of a text, in one pass. A mark without its partner protects nothing."""
    if ANY_MARKUP.search(text) is None:
        return Markup((), is_balanced=True)
    verbatim = [
        Span(match.start(), match.end(), "inline" if match[0].startswith("`") and not match["fence"] else "display")
        for match in VERBATIM.finditer(text)
    ]
    found = list(verbatim)
    is_balanced = True
    start = 0
    for span in [*verbatim, Span(len(text), len(text), "inline")]:
        pairs, all_paired = _pairs(text, start, span.start)
        found += pairs
        is_balanced = is_balanced and all_paired and UNCLOSED.search(text, start, span.start) is None
        start = span.end
    outermost: list[Span] = []
    for span in sorted(found, key=lambda span: (span.start, -span.end)):
        if not outermost or span.start >= outermost[-1].end:
            outermost.append(span)
    return Markup(tuple(outermost), is_balanced)


def is_balanced(text: str) -> bool:
    """Whether everything that opens in a text is closed in it."""
    return parse_markup(text).is_balanced


def _pairs(text: str, start: int, end: int) -> tuple[list[Span], bool]:
    """The pairs of marks in text[start:end], and whether every mark has its partner."""
    pairs: list[Span] = []
    awaited: list[tuple[str, int]] = []  # closing marks, and where each was opened
    num_awaited: Counter[str] = Counter()
    paragraph = start
    all_paired = True
    for position, length, mark in _marks(text, start, end):
        if mark == "\n":
            paragraph = position
            for closing in IN_PARAGRAPH:
                all_paired = num_awaited.pop(closing, 0) == 0 and all_paired
        elif num_awaited[mark]:
            while True:
                closing, opened = awaited.pop()
                if closing in IN_PARAGRAPH and opened < paragraph:
                    continue
                num_awaited[closing] -= 1
                if closing == mark:
                    break
                all_paired = False
            is_display = mark in ("$$", r"\]") or mark.startswith(r"\end")
            pairs.append(Span(opened, position + length, "display" if is_display else "inline"))
        elif mark in CLOSING or mark.startswith(r"\begin"):
            closing = CLOSING.get(mark) or mark.replace("begin", "end", 1)
            awaited.append((closing, position))
            num_awaited[closing] += 1
        else:
            all_paired = False
    return pairs, all_paired and not num_awaited.total()


def _marks(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """The marks of a text: position, length and the mark; a new line for the end of a paragraph.

    Dollar signs that mean money are left out. In "$a$$b$" the two in the middle close and open.
    """
    marks = deque(
        (match.start(), match.end() - match.start(), _mark(match))
        for match in MARK.finditer(text, start, end)
        if match["mark"] or match["environment"]
    )
    while marks:
        opening = marks.popleft()
        if opening[2] != "$":
            yield opening
            continue
        closing = next((mark for mark in marks if mark[2] in ("$", "$$")), None)
        if _is_money(text, opening[0], closing and closing[0]):
            continue
        yield opening
        while closing:
            mark = marks.popleft()
            if mark is not closing:
                yield mark
                continue
            yield closing[0], 1, "$"
            if closing[2] == "$$":
                marks.appendleft((closing[0] + 1, 1, "$"))
            break


def _mark(match: re.Match[str]) -> str:
    if match["environment"]:
        return f"\\{match['environment']}{{{match['name'].strip()}}}"
    mark: str = match["mark"]
    return mark if mark.strip() else "\n"


def _is_money(text: str, opening: int, closing: int | None) -> bool:
    """Whether a dollar sign means money, given the next one: yes in "$5 and $3", no in "$5 + 3$"."""
    if not NUMBER.match(text, opening + 1):
        return False
    if closing is None:
        return True
    content = text[opening + 1 : closing]
    if re.search(r"[\s(\[=+*/,–-]$", content) and re.match(r"[^\s.,;:!?)]", text[closing + 1 : closing + 2]):
        return True  # the next one opens
    return "\n\n" in content or PROSE.search(TEXT_COMMAND.sub("", content)) is not None
