r"""Cut the tokens of a text into statements: sides joined by relations, such as 3 + 4 = 7 = 21/3.

A comma, an arrow, a line break or words end a statement, unless the words are a unit: 3 apples + 4 apples. A line
that opens with a relation goes on with the statement before it, as in align environments.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from algorithms.step_checks.expressions import Expression, Unparsable
from algorithms.step_checks.parsing import parse
from algorithms.step_checks.tokens import RELATED, Token, formulas_and_prose, tokens_of

MAX_UNIT_WORDS: Final = 3
# Words that are never a unit, since they state or join something.
STOP_WORDS: Final = frozenset((
    "a", "an", "the", "and", "or", "if", "so", "is", "are", "was", "were", "be", "then", "thus", "hence", "since",
    "because", "as", "of", "for", "from", "to", "in", "at", "by", "with", "that", "which", "this", "we", "have", "has",
    "had", "get", "gets", "got", "gives", "where", "when", "let", "but", "not", "no", "than", "more", "less", "there",
    "each", "per", "he", "she", "it", "they", "his", "her", "their", "its", "i", "you", "on", "into", "also", "equals",
    "plus", "minus", "times", "divided", "multiplied", "both", "after", "before", "left", "over", "only", "therefore",
    "total", "would", "will", "must", "can", "mod", "means", "implies", "makes", "make", "leaves", "she's", "he's",
    "half", "twice",
))  # fmt: skip


@dataclass(slots=True)
class Statement:
    """Sides and the relations between them. `sides` holds None where a side is no expression that we know."""

    start: int
    end: int
    is_formula: bool
    sides: list[Expression | None]
    relations: list[str]
    places: list[tuple[int, int]]
    modulus: Expression | None = None


@dataclass(slots=True)
class _Builder:
    """The statement that is being read."""

    is_formula: bool
    sides: list[list[Token]] = field(default_factory=lambda: [[]])
    relations: list[Token] = field(default_factory=list)
    brackets: int = 0
    modulus: list[Token] = field(default_factory=list)
    cut: bool = False  # words before it belong to its first side


def statements(text: str, *, with_stars: bool = True) -> Iterator[Statement]:
    """The statements of a text with at least one relation, in reading order.

    Without stars, a * is no multiplication but an operation that the question defines.
    """
    for start, end, is_formula in formulas_and_prose(text):
        if start >= end or not RELATED.search(text, start, end):
            continue
        tokens = tokens_of(text, start, end, is_formula=is_formula)
        if not with_stars:
            tokens = [token._replace(kind="o") if token.text == "*" else token for token in tokens]
        for builder in _runs(tokens, is_formula):
            statement = _finished(builder)
            if statement is not None:
                yield statement


def _finished(builder: _Builder) -> Statement | None:
    places = []
    last = builder.relations[0].start
    for n, side in enumerate(builder.sides):
        if side:
            places.append((side[0].start, side[-1].end))
        else:
            places.append((last, last))
        last = builder.relations[n].end if n < len(builder.relations) else last
    sides = [_compiled(side) for side in builder.sides]
    is_listed = not builder.is_formula and bool(builder.sides[0]) and builder.sides[0][0].kind == "-"
    if builder.cut or is_listed:  # - 18 = 2 * 9 may be an item of a list
        sides[0] = None
    if all(side is None for side in sides):
        return None
    return Statement(
        start=places[0][0],
        end=max(places[-1][1], builder.relations[-1].end),
        is_formula=builder.is_formula,
        sides=sides,
        relations=[token.text for token in builder.relations],
        places=places,
        modulus=_compiled(builder.modulus),
    )


def _compiled(tokens: list[Token]) -> Expression | None:
    while tokens and tokens[-1].kind in ("b", ",", "l"):
        tokens = tokens[:-1]
    if not tokens:
        return None
    try:
        return parse(tokens)
    except Unparsable:
        return None


def _runs(tokens: list[Token], is_formula: bool) -> Iterator[_Builder]:
    builder = _Builder(is_formula)
    place, count = 0, len(tokens)
    while place < count:
        token = tokens[place]
        kind = token.kind
        ends = splits = False
        if kind == "r":
            if builder.brackets > 0 and is_formula:
                ends = True
            else:
                builder.relations.append(token)
                builder.sides.append([])
        elif kind == "w":
            unit_end = _unit_end(tokens, place, builder)
            if unit_end:
                words = " ".join([word.text for word in tokens[place:unit_end]])
                builder.sides[-1].append(Token("u", words, token.start, tokens[unit_end - 1].end))
                place = unit_end
                continue
            if builder.brackets > 0 and is_formula:
                builder.sides[-1].append(Token("o", token.text, token.start, token.end))
            else:
                ends = True
        elif kind in ("b", "l") or (kind == "," and builder.brackets == 0):
            if kind == "l" and builder.brackets > 0:
                builder.sides[-1].append(token)
            elif kind == "l" and builder.relations and _goes_on(tokens, place):
                pass
            else:
                ends = True
                splits = kind == "," and _splits_digits(tokens, place)
                if splits:
                    builder.sides[-1].append(token._replace(kind="o"))
        elif kind == "m":
            place = _read_modulus(tokens, place, builder)
            continue
        elif kind == ")" and builder.brackets == 0:
            ends = True
        else:
            if kind == "(":
                builder.brackets += 1
            elif kind == ")":
                builder.brackets -= 1
            elif kind == "v" and not is_formula:
                token = _times(tokens, place)
            elif kind == "n" and not is_formula and _starts_anew(builder, tokens, place):
                if builder.relations:
                    yield builder
                builder = _Builder(is_formula, cut=True)
            builder.sides[-1].append(token)
        if ends:
            if builder.relations:
                yield builder
            builder = _Builder(is_formula, cut=splits or (kind == "w" and _is_cut(builder, token)))
        place += 1
    if builder.relations:
        yield builder


def _goes_on(tokens: list[Token], place: int) -> bool:
    """Whether the next line goes on with the statement: it opens with a relation, or holds only more terms."""
    following = tokens[place + 1 : place + 2]
    if not following:
        return False
    if following[0].kind == "r":
        return True
    if following[0].kind not in ("+", "-", "*"):
        return False
    for token in tokens[place + 1 : place + 200]:
        if token.kind in ("r", "l", "b"):
            return token.kind != "r"
    return True


def _is_cut(builder: _Builder, word: Token) -> bool:
    """Whether words cut a side in two: 3 + the rest = 8, or an operation in words in a formula."""
    if not builder.sides[-1]:
        return builder.cut
    if builder.is_formula and not builder.relations and not STOP_WORDS & set(word.text.lower().split()):
        return True
    return builder.cut or builder.sides[-1][-1].kind in ("+", "-", "*", "/", "^", "(")


def _splits_digits(tokens: list[Token], place: int) -> bool:
    """Whether a comma stands within digits that are no number in thousands, such as 252,5001."""
    if not 0 < place < len(tokens) - 1:
        return False
    before, after = tokens[place - 1], tokens[place + 1]
    return before.kind == after.kind == "n" and before.end + 1 == after.start


def _starts_anew(builder: _Builder, tokens: list[Token], place: int) -> bool:
    """Whether a number in prose follows another number without being a mixed number: on day 2 5 + 3 = 8."""
    if not builder.sides[-1] or builder.sides[-1][-1].kind not in ("n", "u"):
        return False
    return [token.kind for token in tokens[place : place + 3]] != ["n", "/", "n"]


def _times(tokens: list[Token], place: int) -> Token:
    """The letter x between two numbers is a multiplication sign in prose."""
    token = tokens[place]
    if token.text in ("x", "X") and 0 < place < len(tokens) - 1:
        before, after = tokens[place - 1].kind, tokens[place + 1].kind
        if before in ("n", ")", "w", "%") and after in ("n", "("):
            return Token("*", "x", token.start, token.end)
    return token


def _unit_end(tokens: list[Token], place: int, builder: _Builder) -> int:
    """Where the unit that starts at `place` ends; 0 if its words are none."""
    if not builder.sides[-1] or builder.sides[-1][-1].kind not in ("n", ")", "%", "u", "d"):
        return 0
    end = place
    while end < len(tokens) and tokens[end].kind == "w" and end - place < MAX_UNIT_WORDS:
        if STOP_WORDS & set(tokens[end].text.lower().replace(".", "").split()):
            return 0
        end += 1
    following = tokens[end].kind if end < len(tokens) else ""
    if following in ("+", "*", "/", "r", ")", "^", "s") or (following == "-" and builder.is_formula):
        return end
    if following == "v" and not builder.is_formula and _times(tokens, end).kind == "*":
        return end
    is_last = following in ("", "b", ",", "l") or not builder.is_formula
    return end if builder.relations and is_last and following != "w" else 0


def _read_modulus(tokens: list[Token], place: int, builder: _Builder) -> int:
    r"""Read what follows \pmod or \mod. Returns the place after it."""
    is_infix = tokens[place].text == "mod" and "mod" not in [token.text for token in builder.relations]
    if is_infix:
        builder.sides[-1].append(tokens[place]._replace(kind="/", text="%"))
        return place + 1
    place += 1
    if place < len(tokens) and tokens[place].kind == "(":
        place += 1
        while place < len(tokens) and tokens[place].kind in ("n", "v"):
            builder.modulus.append(tokens[place])
            place += 1
        return place + (place < len(tokens) and tokens[place].kind == ")")
    if place < len(tokens) and tokens[place].kind in ("n", "v"):
        builder.modulus.append(tokens[place])
        return place + 1
    return place
