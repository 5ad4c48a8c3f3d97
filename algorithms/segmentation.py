r"""Split a text into steps.

A step is whole: no split cuts inside a span of `algorithms.markup`, or inside a list that forms one sentence. Nothing
is lost: the steps and the texts between them make up the whole text.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from nupunkt import sent_spans

from algorithms.markup import Markup, parse_markup

Cuts: TypeAlias = Iterable[tuple[int, int]]  # start and end of each text between two steps

ITEM: Final = re.compile(r"[ \t]*(?:[-*•+]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)])[ \t]+([^\n]*)")
GOES_ON: Final = re.compile(r"(?:[,;]|\b(?:and|or))\s*$")
GOES_ON_WITH: Final = re.compile(r"[a-z,;:.)\]]")  # where another sentence would start
# A number or letter that announces what follows it: "1.", "(a)", "Step 2.", "first, 1."
NUMBERING: Final = re.compile(
    r"(?:^|\n|[,:;]\s)\s*[*_#]*\s*(?:(?:step|case|part)\s+)?\(?(?:\d{1,3}|[a-zA-Z])[.)][*_]*$", re.IGNORECASE
)


class Segments(NamedTuple):
    """The steps of a text, and what stands between each step and the next: one separator less than steps."""

    steps: tuple[str, ...]
    separators: tuple[str, ...]


def split_steps(text: str, split: str) -> Segments:
    """The steps of a rationale. Joined with their separators they give the text back, without its outer white space.

    `split` is a name in `SPLITS` or `regex:PATTERN`, whose matches separate steps. Raises ValueError for anything else.
    """
    find_cuts = splitter(split)
    text = text.strip()
    markup = parse_markup(text)
    spans: list[tuple[int, int]] = []
    start = 0
    for left, right in [*_allowed(find_cuts(text, markup), text, markup), (len(text), len(text))]:
        piece = text[start:left]
        if piece.strip():
            begin = start + len(piece) - len(piece.lstrip())
            spans.append((begin, begin + len(piece.strip())))
        start = right
    if spans:  # a separator before the first or after the last step belongs to it
        spans[0] = (0, spans[0][1])
        spans[-1] = (spans[-1][0], len(text))
    steps = tuple(text[start:end] for start, end in spans)
    return Segments(steps, tuple(text[end:start] for (_, end), (start, _) in pairwise(spans)))


def splitter(split: str) -> Callable[[str, Markup], Cuts]:
    """The function behind a `--split` value. Raises ValueError if there is none."""
    if not split.startswith("regex:"):
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)} or regex:PATTERN")
        return SPLITS[split]
    try:
        pattern = re.compile(split.removeprefix("regex:"))
    except re.error as error:
        raise ValueError(f"split {split!r} is not a regular expression: {error}") from None
    return lambda text, markup: (match.span() for match in pattern.finditer(text))


def _newlines(text: str, markup: Markup) -> Cuts:
    return (match.span() for match in re.finditer(r"\s*\n\s*", text))


def _paragraphs(text: str, markup: Markup) -> Cuts:
    return (match.span() for match in re.finditer(r"[ \t]*\n[ \t]*\n\s*", text))


def _sentences(text: str, markup: Markup) -> Cuts:
    start = 0
    for (_, end), _ in pairwise(sent_spans(_without_markup(text, markup))):
        sentence = text[start:end].rstrip()
        if not NUMBERING.search(sentence) and not GOES_ON_WITH.match(text, end):
            yield start + len(sentence), end
            start = end


SPLITS: Final[Mapping[str, Callable[[str, Markup], Cuts]]] = MappingProxyType(
    {"newline": _newlines, "paragraph": _paragraphs, "sentence": _sentences}
)


def _without_markup(text: str, markup: Markup) -> str:
    """The text with a word of the same length in place of each span.

    The word ends with a full stop if its span ends the sentence or stands apart from it. The segmenter still decides
    whether the next word opens a sentence.
    """
    pieces, end = [], 0
    for span in markup.spans:
        ends_sentence = span.kind == "display" or re.search(r"[.!?]\W*$", text[span.start : span.end])
        word = "X".ljust(span.end - span.start - 1, "x") + ("." if ends_sentence else "x")
        pieces += [text[end : span.start], word]
        end = span.end
    return "".join([*pieces, text[end:]])


def _allowed(cuts: Cuts, text: str, markup: Markup) -> Iterator[tuple[int, int]]:
    starts = [span.start for span in markup.spans]
    for left, right in cuts:
        index = bisect_right(starts, max(left, right - 1)) - 1
        if (index < 0 or markup.spans[index].end <= left) and not _is_in_list(text, left, right):
            yield left, right


def _is_in_list(text: str, left: int, right: int) -> bool:
    """Whether a cut separates two items of a list that forms one sentence, or such a list and its introduction."""
    item = ITEM.match(text, right)
    if item is None:
        return False
    line = text[text.rfind("\n", 0, left) + 1 : left]
    return GOES_ON.search(line) is not None or (line.rstrip().endswith(":") and GOES_ON.search(item[1]) is not None)
