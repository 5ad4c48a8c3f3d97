r"""Split a text into steps.

A step is whole: no split cuts inside a span of `algorithms.markup`, or inside a list that forms one sentence. Nothing
is lost: the steps and the texts between them make up the whole text.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from nupunkt import sent_spans

from algorithms.markup import Markup, parse_markup

Cuts: TypeAlias = Iterable[tuple[int, int]]  # start and end of each text between two steps

ITEM: Final = re.compile(r"[ \t]*(?:[-*•+]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)])[ \t]+([^\n]*)")
GOES_ON: Final = re.compile(r"(?:[,;]|\b(?:and|or))\s*$")
GOES_ON_WITH: Final = re.compile(r"[a-z,;:.)\]=≤≥≈≡×÷·/^]|[-+*<−–—] ")  # where another sentence would start
TICK: Final = re.compile(r"[✓✔✅][.!]?\s*")  # belongs to the sentence before it
# What announces the text after it: "1.", "(a)", "Step 2.", "first, 1.", the sign in "3! * 2"; not the 16 of "4, 8, 16."
ANNOUNCEMENT: Final = re.compile(
    r"(?:(?:^|\n)[\s*_#]*(?:(?:step|case|part)\s+)?\(?(?:\d{1,3}|[a-z])|[,:;]\s+[*_]*\(?[1a])[.)][*_]*$|\s[=+*/×·−-]$",
    re.IGNORECASE,
)
MAX_ANNOUNCEMENT: Final = 40  # characters
# Ends of sentences that the segmenter may miss: "No. It" has no abbreviation, and an item starts a sentence.
CERTAIN_END: Final = re.compile(rf"(?<=\b[Nn]o\.)\s+(?=[A-Z])|(?<=[.!?])[ \t]*\n\s*(?={ITEM.pattern})")
PARAGRAPH_END: Final = re.compile(r"\n\s*\n\s*")
HEADING: Final = re.compile(r"\s*(?:#+ .*|\*\*[^*]*[^*.!?]\*\*:?\s*)")  # a line that belongs to the paragraph after it


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
    cuts = (match.span() for match in re.finditer(r"[ \t]*\n[ \t]*\n\s*", text))
    return ((left, right) for left, right in cuts if not HEADING.fullmatch(_line_before(text, left)))


def _sentences(text: str, markup: Markup) -> Cuts:
    words = _without_markup(text, markup)
    markup_starts = {span.start for span in markup.spans}
    ends = {end for _, end in sent_spans(words)}
    ends |= {match.end() for match in CERTAIN_END.finditer(words)}
    ends |= {
        match.end()
        for match in PARAGRAPH_END.finditer(words)
        if match.end() not in markup_starts and not _is_introduction(_line_before(text, match.start()))
    }
    start = 0
    for found in sorted(ends):
        tick = TICK.match(text, found)
        end = tick.end() if tick else found
        sentence = text[start:end].rstrip()
        left = start + len(sentence)
        announces = ANNOUNCEMENT.search(sentence[-MAX_ANNOUNCEMENT:])
        if sentence and end < len(text) and not announces and not _goes_on(text, left, end):
            yield left, end
            start = end


def _is_introduction(line: str) -> bool:
    """Whether a line without a full stop belongs to the paragraph after it."""
    return HEADING.fullmatch(line) is not None or line.rstrip().endswith(":") or GOES_ON.search(line) is not None


def _goes_on(text: str, left: int, right: int) -> bool:
    """Whether the text at `right` continues the sentence that seems to end at `left`."""
    is_item = "\n" in text[left:right] and ITEM.match(text, right)
    return not is_item and GOES_ON_WITH.match(text, right) is not None


SPLITS: Final[Mapping[str, Callable[[str, Markup], Cuts]]] = MappingProxyType(
    {"newline": _newlines, "paragraph": _paragraphs, "sentence": _sentences}
)


def _without_markup(text: str, markup: Markup) -> str:
    """The text with a word of the same length in place of each span.

    The word ends with a full stop if its span ends the sentence or stands apart from it, and with a space too if the
    next word touches it, as in "\\]Then". The segmenter still decides whether the next word opens a sentence.
    """
    pieces, end = [], 0
    for span in markup.spans:
        stop = "x"
        if span.kind == "display":
            stop = ". " if text[span.end : span.end + 1].isalpha() else "."
        elif re.search(r"[.!?]\W*$", text[span.start : span.end]):
            stop = "."
        word = "X".ljust(span.end - span.start - len(stop), "x") + stop
        pieces += [text[end : span.start], word]
        end = span.end
    return "".join([*pieces, text[end:]])


def _allowed(cuts: Cuts, text: str, markup: Markup) -> Iterator[tuple[int, int]]:
    starts = [span.start for span in markup.spans]
    for left, right in cuts:
        index = bisect_left(starts, right) - 1
        if (index < 0 or markup.spans[index].end <= left) and not _is_in_list(text, left, right):
            yield left, right


def _is_in_list(text: str, left: int, right: int) -> bool:
    """Whether a cut separates two items of a list that forms one sentence, or such a list and its introduction."""
    item = ITEM.match(text, right)
    if item is None:
        return False
    line = _line_before(text, left)
    return GOES_ON.search(line) is not None or (line.rstrip().endswith(":") and GOES_ON.search(item[1]) is not None)


def _line_before(text: str, position: int) -> str:
    return text[text.rfind("\n", 0, position) + 1 : position]
