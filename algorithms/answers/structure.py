r"""Parse an answer's text into a tree of typed nodes.

The node types: expressions (leaves, as LaTeX), words, quantities with a unit, unordered lists and sets, bracketed
sequences (tuples and intervals), matrices, relations, set operations, multiple-choice options, numbers with a base,
times of day. `equivalence` compares two trees.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from algorithms.answers.cleaning import clean
from algorithms.answers.extraction import closing_brace
from algorithms.answers.numerals import number_in_words

MAX_CHARACTERS: Final = 2000


class UnparsableAnswer(ValueError):
    """An answer that parses neither as mathematics nor as words."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """An expression, as clean LaTeX."""

    latex: str


@dataclass(frozen=True, slots=True)
class Words:
    """Words in lower case."""

    text: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with a unit, spelled as in the answer."""

    value: "Node"
    unit: str


@dataclass(frozen=True, slots=True)
class Values:
    """Several values in any order: a list, or a set in braces."""

    items: tuple["Node", ...]
    is_set: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """A tuple, point, vector or interval: `opening` and `closing` are its brackets."""

    items: tuple["Node", ...]
    opening: str
    closing: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries, times a factor."""

    rows: tuple[tuple["Node", ...], ...]
    factor: str = "1"


@dataclass(frozen=True, slots=True)
class Relation:
    """Sides with an operator (=, <, \\le, >, \\ge, \\ne) between neighbours."""

    sides: tuple["Node", ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetOperation:
    r"""Sets joined by one operator (\\cup, \\cap, \\setminus), or conditions joined by ","."""

    items: tuple["Node", ...]
    operator: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A multiple-choice option: its letter, and its content if given."""

    letter: str
    chosen: "Node | None" = None


@dataclass(frozen=True, slots=True)
class BaseNumber:
    """Digits and their base."""

    digits: str
    base: str


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day; `half` is "a" (a.m.), "p" (p.m.) or ""."""

    hour: int
    minute: int
    half: str = ""


Node: TypeAlias = (
    Leaf | Words | Quantity | Values | Sequence | Matrix | Relation | SetOperation | Choice | BaseNumber | Clock
)

OPENING: Final = {"(": 1, "[": 1, "{": 1, r"\{": 1, r"\langle": 1, ")": -1, "]": -1, "}": -1, r"\}": -1, r"\rangle": -1}
TOKEN: Final = re.compile(r"\\begin\{[^}]*\}|\\end\{[^}]*\}|\\[a-zA-Z]+|\\.|«[^«»]*»|.", re.DOTALL)
COMPARISONS: Final = {"=": "=", "<": "<", ">": ">", r"\le": r"\le", r"\ge": r"\ge", r"\ne": r"\ne"}
SET_OPERATORS: Final = (r"\cup", r"\cap", r"\setminus")
GROUPING: Final = "⸴"  # the comma of 1,234
CONNECTIVES: Final = re.compile(r"«\s*(?:,\s*)?(?:and|or)\s*»")
MATRIX: Final = re.compile(
    r"^(.*?)\\begin\{([bBpvV]?(?:small)?matrix|array)\}(?:\{[^}]*\})?(.*)\\end\{\2\}$", re.DOTALL
)
AMOUNT: Final = r"(?:\d+(?:\.\d+)?(?:\s+\d+/\d+)?|\\frac\{\d+\}\{\d+\})"
UNIT: Final = re.compile(
    r"(.*?[^\s(«»^_/\\])\s*(?:\^\s*\{?\s*)?«([^«»]+)»\s*(?:\}|(\^\s*\{?\s*[23]\s*\}?))?\s*(?:/\s*«([^«»]+)»)?"
)
NO_SOLUTION: Final = re.compile(
    r"(?:there (?:is|are) )?no(?: (?:real|such|integer|possible|valid|more))*"
    r"(?: (?:solutions?|values?|roots?|numbers?|integers?))(?: exists?)?|none"
)
CURRENCIES: Final = {"¤": "dollars", "€": "euros", "£": "gbp", "¥": "yen"}
MULTIPLES: Final = {
    "dozen": "12", "hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000",
    "trillion": "1000000000000", "half": "1/2", "halves": "1/2", "third": "1/3", "thirds": "1/3", "quarter": "1/4",
    "quarters": "1/4", "fourth": "1/4", "fourths": "1/4", "fifth": "1/5", "fifths": "1/5", "sixth": "1/6",
    "sixths": "1/6", "seventh": "1/7", "sevenths": "1/7", "eighth": "1/8", "eighths": "1/8", "ninth": "1/9",
    "ninths": "1/9", "tenth": "1/10", "tenths": "1/10", "hundredth": "1/100", "hundredths": "1/100",
    "thousandth": "1/1000", "thousandths": "1/1000",
}  # fmt: skip
# Words that turn the text after a number into a statement, so that it is not a unit.
STATEMENT: Final = frozenset(
    ("is", "are", "was", "were", "not", "or", "less", "than", "least", "most", "isn't", "if", "only", "no", "cubed",
     "squared", "minus", "plus", "times", "but", "can", "cannot", "has", "have", "does", "do", "will")
)  # fmt: skip


@lru_cache(maxsize=4096)
def parse_answer(answer: str) -> Node | None:
    """The tree of an answer; None if it is missing. Raises UnparsableAnswer if it cannot be parsed."""
    if not answer.strip():
        return None
    if len(answer) > MAX_CHARACTERS:
        raise UnparsableAnswer(f"the answer has {len(answer):,} characters; the limit is {MAX_CHARACTERS:,}")
    text = clean(answer)
    if not text:
        return None
    return _parse(text)


def _parse(text: str) -> Node:
    text = text.strip(" ,;:")
    if not text:
        raise UnparsableAnswer("a value is missing")
    text = _mark_grouped_digits(_without_introduction(text))
    for attempt in PARSERS:
        node = attempt(text)
        if node is not None:
            return node
    return _parse_quantity_or_leaf(text)


def _without_introduction(text: str) -> str:
    """Remove "x \\in", set-builder notation, and the approximation after an exact value."""
    text = re.sub(r"^[a-zA-Z](?:_\w)?\s*\\in\s*(?=\S)", "", text)
    builder = re.fullmatch(r"\\\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:]\s*(.+)\\\}", text)
    if builder:
        return builder[1].strip()
    text = re.sub(r",?\s*\(?«\s*(?:(?:rounded )?to the nearest [\w ]+|approximately)\s*»\s*\)?$", "", text)
    text = re.sub(r"^«\s*(?:approximately|about|roughly|equal to)\s*»\s*(?=\S)", "", text)
    parts = _split_outside_brackets(text, (r"\approx",))
    exact = next((part for part, _ in parts if part.strip()), text)
    return exact.strip()


def _split_outside_brackets(text: str, separators: tuple[str, ...]) -> list[tuple[str, str]]:
    """Split a text at the separators outside all brackets. Each piece comes with the separator that follows it."""
    pieces, depth, piece, environment = [], 0, "", 0
    for match in TOKEN.finditer(text):
        token = match[0]
        if token.startswith(r"\begin"):
            environment += 1
        elif token.startswith(r"\end"):
            environment -= 1
        depth = max(0, depth + OPENING.get(token, 0))
        if depth == 0 and environment == 0 and token in separators:
            pieces.append((piece, token))
            piece = ""
        else:
            piece += token
    return [*pieces, (piece, "")]


def _parse_compound(text: str) -> Node | None:
    """Values with units side by side: 2 hours 30 minutes. `equivalence` adds them up."""
    parts = re.findall(rf"({AMOUNT})\s*(?:«([^«»]+)»|(\^\s*\\circ))[\s,]*", text)
    if len(parts) < 2 or "," in text or not re.fullmatch(rf"(?:{AMOUNT}\s*(?:«[^«»]+»|\^\s*\\circ)\s*)+", text):
        return None
    units = [re.sub(r"^and | and$", "", unit.strip().lower()) or "degrees" for _, unit, _ in parts]
    if any(STATEMENT & set(unit.split()) for unit in units):
        return None
    return Values(tuple(Quantity(_parse(value), unit) for (value, _, _), unit in zip(parts, units, strict=True)))


def _parse_assignments(text: str) -> Node | None:
    """Several solutions, each a value for every unknown: p=5, q=2; p=7, q=2."""
    groups = [
        [_split_outside_brackets(piece, ("=",)) for piece, _ in _split_outside_brackets(group, (",",)) if piece.strip()]
        for group, _ in _split_outside_brackets(CONNECTIVES.sub(" ; ", text), (";",))
    ]
    names = [sorted(piece[0][0].strip() for piece in group) for group in groups]
    is_assignment = all(len(piece) == 2 and piece[0][0].strip().isalpha() for group in groups for piece in group)
    if len(groups) < 2 or len(names[0]) < 2 or not is_assignment or any(each != names[0] for each in names):
        return None
    return Values(
        tuple(
            Sequence(
                tuple(_parse(piece[1][0]) for piece in sorted(group, key=lambda piece: piece[0][0].strip())), "(", ")"
            )
            for group in groups
        )
    )


def _parse_list(text: str) -> Node | None:
    if re.fullmatch(r"\d+(?:\.\d+)?(?:\s+\d+(?:\.\d+)?)+", text):
        return Values(tuple(Leaf(number) for number in text.split()))
    either = re.search(r"«[^«»]*\bor\s*»", text) is not None
    both = re.search(r"«[^«»]*\band\s*»", text) is not None
    pieces = [
        piece.strip() for piece, _ in _split_outside_brackets(CONNECTIVES.sub(" ; ", text), (",", ";")) if piece.strip()
    ]
    if len(pieces) < 2:
        return None
    first = re.match(r"^([a-zA-Z](?:_\w)?\s*=)\s*(.+)$", pieces[0])
    if first and not any("=" in piece or "<" in piece for piece in pieces[1:]):
        pieces[0] = first[2]  # n = 5, 6, 7
    items = [_parse(piece) for piece in pieces]
    last = re.match(r"^([a-zA-Z]+)\s*=", pieces[-1])
    if last and all(re.match(rf"^{last[1]}\s*=", piece) for piece in pieces):  # x = 1, x = 2
        items = [item.sides[-1] if isinstance(item, Relation) else item for item in items]
    if all(isinstance(item, Relation) and "=" not in item.operators for item in items):
        return SetOperation(tuple(items), r"\cup" if either else r"\cap" if both else ",")  # x < 1 or x > 2
    return Values(_flattened(items))


def _flattened(items: list[Node]) -> tuple[Node, ...]:
    flat: list[Node] = []
    for item in items:
        flat.extend(item.items if isinstance(item, Values) and not item.is_set else [item])
    return tuple(flat)


def _mark_grouped_digits(text: str) -> str:
    """Mark the commas that group digits by three: "1,234" is a number, "1, 234" is a list."""
    grouped = r"(?<![\d.,])(\d{1,3})((?:,\d{3})+)(?![\d,])"
    text = re.sub(grouped, lambda match: match[1] + match[2].replace(",", GROUPING), text)
    return re.sub(r"^(-?\d{1,3})((?: \d{3})+)$", lambda match: match[1] + match[2].replace(" ", ""), text)


def _parse_plus_minus(text: str) -> Node | None:
    if not re.search(r"\\(?:pm|mp)(?![a-zA-Z])", text):
        return None
    upper = re.sub(r"\\pm(?![a-zA-Z])", "+", re.sub(r"\\mp(?![a-zA-Z])", "-", text))
    lower = re.sub(r"\\pm(?![a-zA-Z])", "-", re.sub(r"\\mp(?![a-zA-Z])", "+", text))
    both = [_parse(upper), _parse(lower)]
    if all(isinstance(node, Relation) and node.operators == ("=",) for node in both):
        both = [node.sides[1] for node in both if isinstance(node, Relation)]
    if all(isinstance(node, Values) and node.is_set for node in both):
        return Values(tuple(item for node in both if isinstance(node, Values) for item in node.items), is_set=True)
    return Values(_flattened(both))


def _parse_relation(text: str) -> Node | None:
    pieces = _split_outside_brackets(text, tuple(COMPARISONS))
    if len(pieces) < 2:
        return None
    if not all(piece.strip() for piece, _ in pieces):
        return _parse(pieces[-1][0]) if pieces[-1][0].strip() and not pieces[0][0].strip() else None
    return Relation(tuple(_parse(piece) for piece, _ in pieces), tuple(COMPARISONS[mark] for _, mark in pieces[:-1]))


def _parse_set_operation(text: str) -> Node | None:
    pieces = _split_outside_brackets(text, SET_OPERATORS)
    operators = {mark for _, mark in pieces[:-1]}
    if len(operators) != 1 or not all(piece.strip() for piece, _ in pieces):
        return None
    return SetOperation(tuple(_parse(piece) for piece, _ in pieces), operators.pop())


def _parse_matrix(text: str) -> Node | None:
    match = MATRIX.match(text)
    if match is None or r"\begin" in match[1] or match[2] == "vmatrix":
        return None
    rows = [row for row in re.split(r"\\\\|\\cr", match[3].replace(r"\hline", "")) if row.strip()]
    factor = match[1].strip().removesuffix(r"\cdot").removesuffix("*").strip()
    cells = tuple(tuple(_parse(cell) for cell in row.split("&")) for row in rows)
    if not cells:
        raise UnparsableAnswer("the matrix is empty")
    return Matrix(cells, {"": "1", "-": "-1"}.get(factor, factor))


def _parse_bracketed(text: str) -> Node | None:
    """A set in braces, a tuple, an interval, a vector, or the content of parentheses; None if nothing encloses all."""
    opening = next((mark for mark in (r"\{", r"\langle", "(", "[", "{") if text.startswith(mark)), None)
    if opening is None:
        return None
    inside = _bracket_content(text, opening)
    if inside is None:
        return None
    content, closing = inside
    pieces = [
        piece.strip()
        for piece, _ in _split_outside_brackets(
            _mark_grouped_coordinates(content.replace(GROUPING, ",")), (";",) if ";" in content else (",",)
        )
    ]
    if opening == r"\{":
        return Values(tuple(_parse(piece) for piece in pieces if piece), is_set=True)
    if opening == "{":
        return _parse(content)
    if len(pieces) < 2:
        # (x+1) equals x+1. [x] may denote rounding, so it is left unchanged.
        return _parse(content) if opening == "(" and closing == ")" and content.strip() else None
    if not all(pieces):
        raise UnparsableAnswer("the tuple has an empty element")
    opening, closing = ("(", ")") if opening == r"\langle" else (opening, closing)
    return Sequence(tuple(_parse(piece) for piece in pieces), opening, closing)


def _mark_grouped_coordinates(content: str) -> str:
    # "(1,234)" is a point. The comma groups digits only if it cannot separate coordinates: "(1,234, 5)".
    if content.count(",") == 1:
        return content
    return re.sub(r"(?<![\d.,])(\d{1,3}),(\d{3})(?=\s*,\s+)", rf"\1{GROUPING}\2", content)


def _bracket_content(text: str, opening: str) -> tuple[str, str] | None:
    """The text between the first bracket and its partner, and the partner; None unless the partner ends the text."""
    depth = 0
    for match in TOKEN.finditer(text):
        depth += OPENING.get(match[0], 0)
        if depth == 0:
            if match.end() != len(text):
                return None
            return text[len(opening) : match.start()], match[0]
    return None


def _parse_base_number(text: str) -> Node | None:
    match = re.fullmatch(
        r"«?\s*\(?([0-9A-F]+)\)?\s*»?\s*_\s*\{?\s*(?:«\s*)?(\d+|two|three|eight|ten|sixteen)(?:\s*»)?\s*\}?", text
    )
    if match is None or not any(letter.isdigit() for letter in match[1]):
        return None
    base = {"two": "2", "three": "3", "eight": "8", "ten": "10", "sixteen": "16"}.get(match[2], match[2])
    return BaseNumber(match[1].lstrip("0") or "0", base)


def _parse_clock(text: str) -> Node | None:
    plain = re.sub(r"[«»\s]", "", text).lower().replace(".", "")
    if plain in ("noon", "12noon", "midnight", "12midnight"):
        return Clock(12, 0, "a" if "mid" in plain else "p")
    match = re.fullmatch(r"(\d{1,2})(?::(\d{2}))?(?:([ap])m?)?", plain)
    if match is None or not (match[2] or (match[3] and plain.endswith("m"))):
        return None
    if int(match[1]) > 24 or int(match[2] or 0) > 59:
        return None
    return Clock(int(match[1]), int(match[2] or 0), match[3] or "")


def _parse_date(text: str) -> Node | None:
    plain = text.replace(" ", "")
    return Words(plain) if re.fullmatch(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/\d{4}", plain) else None


def _parse_figure(text: str) -> Node | None:
    """A triangle or an angle by its points: the triangle ABC is BCA, and the angle ABC is CBA."""
    match = re.fullmatch(r"\\(triangle|angle)\s*((?:[A-Z]'?)+)", text.replace("«", "").replace("»", ""))
    if match is None:
        return None
    points = re.findall(r"[A-Z]'?", match[2])
    names = sorted(points) if match[1] == "triangle" else min(points, points[::-1])
    return Words(f"{match[1]} {''.join(names)}")


def _parse_choice(text: str) -> Node | None:
    plain = re.sub(r"\s+", " ", text.replace("«", "").replace("»", "")).strip()
    plain = re.sub(r"^(?:option|choice)\s+", "", plain, flags=re.IGNORECASE)
    letters = re.fullmatch(r"\(?([A-J])\)?(?:(?:\s*,\s*|\s+)(?:(?:and|or)\s+)?\(?([A-J])\)?)*", plain)
    if letters:
        choices = tuple(Choice(letter) for letter in re.findall(r"\b[A-J]\b", plain))
        return choices[0] if len(choices) == 1 else Values(choices)
    if len(re.findall(r"\(\s*«?\s*[A-J]\s*»?\s*\)", text)) > 1:
        return None  # several options with their contents form a list
    match = re.match(r"^«?\s*(?:\(\s*«?\s*([A-J])\s*»?\s*\)|([A-J])[.)])[ ,:]*»?\s*(.+)$", text)
    if match is None or (not text.startswith("«") and re.match(r"[-+*/^_=<>]|\\(?:cup|cdot|times)", match[3])):
        return None
    chosen = match[3].strip()
    if chosen.count("«") != chosen.count("»"):
        chosen = "«" + chosen
    return Choice(match[1] or match[2], _parse(chosen))


def _parse_words(text: str) -> Node | None:
    """A ratio with "to", or a text that starts with a word: words, a number word or a named set."""
    ratio = re.fullmatch(r"(.+?)\s*«to»\s*(.+)", text)
    if ratio and not re.search("«", ratio[1] + ratio[2]):
        return Leaf(f"{ratio[1].strip()}:{ratio[2].strip()}")
    if not text.startswith("«"):
        return None
    words = re.sub(r"\s+", " ", re.sub(r"[«»]", " ", text)).strip().lower().strip(" .")
    tokens = words.split()
    for length in range(len(tokens), max(0, len(tokens) - 3), -1):  # twenty-five, three apples
        number = number_in_words(" ".join(tokens[:length]))
        unit = " ".join(tokens[length:])
        if number is not None and not STATEMENT & set(tokens[length:]):
            return Quantity(Leaf(number), unit) if unit else Leaf(number)
    if words in ("all real numbers", "all reals", "the set of all real numbers", "real numbers", "all real", "reals"):
        return Leaf(r"\mathbb{R}")
    if words in ("empty set", "the empty set") or NO_SOLUTION.fullmatch(words):
        return Leaf(r"\emptyset")
    return Words(re.sub(r"^(?:the|a|an) ", "", words))


def _parse_quantity_or_leaf(text: str) -> Node:
    sign = next((sign for sign in CURRENCIES if text.startswith((sign, f"-{sign}")) or text.endswith(sign)), None)
    if sign is not None:
        value, currency = _parse(text.replace(sign, "", 1)), CURRENCIES[sign]
        if isinstance(value, Quantity):  # $5 per hour, $5 profit
            return Quantity(value.value, f"{currency} {value.unit}")
        return Quantity(value, currency)
    if text.endswith("%"):
        return Quantity(_parse(text[:-1]), "%")
    modulo = re.fullmatch(r"(.+?)\s*\(?\\[pb]?mod\s*\{?\s*(\d+)\s*\}?\)?", text)
    if modulo:
        return Quantity(_parse(modulo[1]), f"mod {modulo[2]}")
    degrees = re.fullmatch(r"(.+?)\s*\^\s*\\circ(?:\s*«?([CF])»?)?", text)
    if degrees and not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)|cis", text):
        scale = {"C": "celsius", "F": "fahrenheit"}.get(degrees[2] or "", "degrees")
        return Quantity(_parse(degrees[1].removesuffix("{}")), scale)
    unit = UNIT.fullmatch(text)
    if unit and re.search(r"[\d)}\]a-zA-Z%]$", unit[1].strip()):
        return _parse_with_unit(unit[1].strip(), unit[2].strip().lower(), unit[3], unit[4])
    if re.search(r"«[^«»]*\s[^«»]*»", text):
        return Words(re.sub(r"\s+", " ", re.sub(r"[«»]", " ", text)).strip().lower())
    return Leaf(re.sub(r"\s+", " ", text.replace("«", "").replace("»", "")).strip())


def _parse_with_unit(value: str, unit: str, power: str | None, per: str | None) -> Node:
    first, _, rest = unit.partition(" ")
    if STATEMENT & set(unit.split()):
        return Words(f"{value} {unit}")
    if first in MULTIPLES:
        scaled = Leaf(rf"({value})\cdot {MULTIPLES[first]}")
        return Quantity(scaled, rest) if rest else scaled
    exponent = "" if power is None else re.sub(r"\D", "", power)
    if value.endswith("{") or value.count("{") != value.count("}"):
        value = value.rstrip("{^ ")
    return Quantity(_parse(value), unit + exponent + (f"/{per}" if per else ""))


PARSERS: Final = (
    _parse_clock, _parse_date, _parse_choice, _parse_compound, _parse_assignments, _parse_list, _parse_plus_minus,
    _parse_relation, _parse_set_operation, _parse_matrix, _parse_bracketed, _parse_base_number, _parse_figure,
    _parse_words,
)  # fmt: skip


def is_balanced(text: str) -> bool:
    """Whether the braces of a text balance."""
    start = text.find("{")
    return text.count("{") == text.count("}") and (start < 0 or closing_brace(text, start) is not None)
