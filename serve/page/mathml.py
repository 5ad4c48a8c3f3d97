r"""A text with LaTeX as safe HTML: formulas become MathML, everything else is escaped.

Formulas stand between $ $, $$ $$, \( \) or \[ \], in an environment such as align, or in a bare \boxed{ }. A formula
that cannot be converted is shown as its source.

latex2mathml may need very long on hostile input: run `to_html` in a process that can be killed. Its own serialization
does not escape what stands in \text. So elements are written here: only those on a list, with the attributes on a list.
"""

import re
from collections.abc import Iterator
from html import escape, unescape
from typing import Final, NamedTuple
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element

LONGEST_FORMULA: Final = 4000
ENVIRONMENTS: Final = (
    r"(?:align|alignat|aligned|array|cases|equation|gather|multline|split|[pbBvV]?matrix|smallmatrix)\*?"
)
OPENING: Final = re.compile(
    rf"\\[\\$]|\\\[|\\\(|\\(?:boxed|fbox)\s*(?=\{{)|\\begin\{{(?P<name>{ENVIRONMENTS})\}}|\$\$|\$"
)
CLOSINGS: Final = {r"\[": r"\]", r"\(": r"\)", "$$": "$$"}
# A dollar that opens a formula has no space behind it. The one that closes it has no space and no operator before it,
# and no digit behind it: "$5 and $6" and "3*5=$<<3*5=15>>15" are money.
INLINE: Final = re.compile(r"\$(?!\s)((?:[^$\\]|\\.)+)(?<![\s=+\-*/(<])\$(?![\d<])", re.DOTALL)
AMOUNT: Final = re.compile(r"\d[\d.,]*\s+(?:a\s|[a-z]{2,})", re.IGNORECASE)  # "$5 per pound": money too
UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
BLANK_LINE: Final = re.compile(r"\n\s*\n")
DEFINES: Final = re.compile(r"\\(?:def|let|(?:re)?newcommand|providecommand|DeclareMathOperator)(?![a-zA-Z])")

ELEMENTS: Final = frozenset(
    {
        "math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup",
        "munder", "mover", "munderover", "mmultiscripts", "mprescripts", "mtable", "mtr", "mtd", "mstyle", "mpadded",
        "mphantom", "merror", "menclose",
    }
)  # fmt: skip
ATTRIBUTES: Final = frozenset(
    {
        "display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "form", "separator", "symmetric",
        "largeop", "movablelimits", "accent", "accentunder", "minsize", "maxsize", "width", "height", "depth",
        "voffset", "lspace", "rspace", "linethickness", "columnalign", "rowlines", "columnlines", "notation",
        "mathcolor", "mathbackground",
    }
)  # fmt: skip
VALUE: Final = re.compile(r"[\w#.+\-% ]{1,60}", re.ASCII)


class Formula(NamedTuple):
    """A formula in a text: where it ends, what it says, and whether it stands on lines of its own."""

    end: int
    latex: str
    is_display: bool


def to_html(text: str) -> str:
    """The text as paragraphs of HTML."""
    text = _clean(text)
    parts: list[str] = []
    position, after_display = 0, False
    for start, formula in _formulas(text):
        parts.append(_plain(text[position:start], trim_start=after_display, trim_end=formula.is_display))
        parts.append(_formula(formula, text[start : formula.end]))
        position, after_display = formula.end, formula.is_display
    parts.append(_plain(text[position:], trim_start=after_display))
    return _paragraphs("".join(parts))


def to_plain_html(text: str) -> str:
    """The text as paragraphs of HTML, its formulas as their source."""
    return _paragraphs(_plain(_clean(text)))


def _clean(text: str) -> str:
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def _plain(text: str, *, trim_start: bool = False, trim_end: bool = False) -> str:
    """Escaped text with its lines. Line ends beside a formula on lines of its own would leave gaps."""
    text = text.replace(r"\$", "$")
    text = text.lstrip("\n") if trim_start else text
    text = text.rstrip("\n") if trim_end else text
    return "</p><p>".join(escape(part).replace("\n", "<br>") for part in BLANK_LINE.split(text))


def _paragraphs(html: str) -> str:
    return f"<p>{html}</p>".replace("<p></p>", "")


def _formulas(text: str) -> Iterator[tuple[int, Formula]]:
    """The formulas of a text with their starts."""
    braces, absent = _closing_braces(text), set[str]()
    position = 0
    while (opening := OPENING.search(text, position)) is not None:
        formula = _formula_at(text, opening, braces, absent)
        if formula is None or not formula.latex.strip():
            position = opening.end()
            continue
        yield opening.start(), formula
        position = formula.end


def _formula_at(text: str, opening: re.Match[str], braces: dict[int, int], absent: set[str]) -> Formula | None:
    """The formula that an opening begins, None if it begins none. `absent`: the ends that do not follow any more."""
    mark, start, inner = opening[0], opening.start(), opening.end()
    if mark in (r"\\", r"\$"):
        return None
    if mark == "$":
        inline = INLINE.match(text, start)
        if inline is None or AMOUNT.match(inline[1]) or BLANK_LINE.search(inline[1]):
            return None
        return Formula(inline.end(), inline[1], False)
    if mark.startswith((r"\boxed", r"\fbox")):
        brace = braces.get(inner)
        return None if brace is None else Formula(brace + 1, text[start : brace + 1], False)
    name = opening["name"]
    closing = CLOSINGS[mark] if name is None else rf"\end{{{name}}}"
    end = -1 if closing in absent else text.find(closing, inner)
    if end < 0:
        absent.add(closing)  # searching again from every opening would be quadratic
        return None
    if name is None:
        return Formula(end + len(closing), text[inner:end], mark != r"\(")
    return Formula(end + len(closing), text[start : end + len(closing)], True)


def _closing_braces(text: str) -> dict[int, int]:
    """Each opening brace and the one that closes it, in one pass: a search for each would be quadratic."""
    closings: dict[int, int] = {}
    open_braces: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match[0] == "{":
            open_braces.append(match.start())
        elif match[0] == "}" and open_braces:
            closings[open_braces.pop()] = match.start()
    return closings


def _formula(formula: Formula, source: str) -> str:
    latex = formula.latex.strip()
    # A macro can grow without bounds, and no sample needs one.
    is_fair = len(latex) <= LONGEST_FORMULA and DEFINES.search(latex) is None
    html = _converted(latex, "block" if formula.is_display else "inline") if is_fair else None
    return f"<code>{escape(source)}</code>" if html is None else html


def _converted(latex: str, display: str) -> str | None:
    """A formula as MathML, None if it cannot be converted."""
    try:
        return "".join(_written(convert_to_element(latex, display=display)))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  the converter raises IndexError, StopIteration, RecursionError, its own, ...
        return None


def _written(element: Element) -> Iterator[str]:
    """An element as HTML. Of one that is not on the list, the children remain."""
    is_known = element.tag in ELEMENTS
    if is_known:
        attributes = (
            f' {name}="{value}"'
            for name, value in element.attrib.items()
            if name in ATTRIBUTES and VALUE.fullmatch(value)
        )
        yield f"<{element.tag}{''.join(attributes)}>"
    # The converter writes signs as character references.
    yield escape(unescape(element.text or ""))
    for child in element:
        yield from _written(child)
    if is_known:
        yield f"</{element.tag}>"
