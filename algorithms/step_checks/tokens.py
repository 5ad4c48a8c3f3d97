r"""Split a text into regions of mathematics and prose, and each region into tokens.

Formulas stand between $ signs, in \[ \], in \( \), or in an environment such as align. A $ sign before an amount is
money. Asymptote code and the annotations <<3+4=7>> of a calculator are skipped. A token's kind is one character:

    n number    v variable    o something that no expression may hold    w words    u unit    b end of a statement
    r relation  f function of one argument    c command with arguments    l line break    m modulus
    and each of + - * / ^ _ ( ) , ! | % d (degree) for itself
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_FORMULA: Final = 4000  # characters
MAX_DIGITS: Final = 200


class Token(NamedTuple):
    """A piece of a region, with its place in the text."""

    kind: str
    text: str
    start: int
    end: int


NUMBER: Final = (
    r"(?P<number>\d{1,3}(?:(?:\{,\}|,\s?\\!|\\!,|\\,|,)\d{3})+(?!,?\d)(?:\.\d+)?"
    r"|\d+(?:\.(?:\d+|(?=\\overline)))?|(?<![\w.])\.\d+)"
)
SIGNS: Final = r"(?P<sign>[-+*/^_(){}\[\],!|%=<>~;:&'?\"≤≥≠≈≡×÷·−–√π°²³½¼¾$…])"
MATHS: Final = re.compile(
    r"(?P<space>\s+|\\(?:[,!;: ]|(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|boxed|fbox|"
    r"phantom|q?quad)(?![a-zA-Z]))|\\\$|&)"
    r"|\\(?P<words>text|mbox|textbf|textit|textrm|mathrm|operatorname|hbox)\s*\{(?P<content>[^{}]*)\}"
    r"|(?:m\s*)?\\(?:angle|measuredangle)\s*(?P<angle>[A-Z]{1,3}|\d)"
    r"|\\(?:overline|bar|vec|hat|widehat|overrightarrow)\s*\{?\s*(?P<named>[a-zA-Z]{1,3})(?![a-zA-Z])\}?"
    r"|\\begin\{(?P<matrix>[pbvVB]?(?:small)?matrix|array|cases)\}"
    r"|(?P<block>\\(?:begin|end)\{[a-zA-Z*]*\}(?:\{[^{}]*\})?)"
    rf"|{NUMBER}|(?P<dots>\.\.\.+|\\[lc]?dots[cbm]?)"
    r"|(?P<command>\\(?:[a-zA-Z]+|.))|(?P<letter>[A-Z]{2,4}(?![a-zA-Z])|[a-zA-Z])|(?P<stop>\.)"
    rf"|{SIGNS}|(?P<other>.)",
    re.DOTALL,
)
PROSE: Final = re.compile(
    r"(?P<space>[ \t]+|\\\$|\$|\\boxed)"
    r"|(?P<words>[A-Za-zÀ-ÿ][A-Za-zÀ-ÿ'’]+(?:-[A-Za-z]+)*\.?(?=[ ,)]|\b)|\b[aAI]\b(?=\s[a-z]))"
    rf"|{NUMBER}|(?P<dots>\.\.\.+)|(?P<command>\\(?:[a-zA-Z]+|.))|(?P<letter>[a-zA-Z])|(?P<stop>[.\n])"
    rf"|{SIGNS}|(?P<other>.)",
    re.DOTALL,
)
OPENING: Final = re.compile(
    r"\\\$|\$\$?|\\\[|\\\(|\\begin\{(?:align|gather|equation|eqnarray|multline|alignat)\*?\}|\[asy\]"
)
ANNOTATION: Final = re.compile(r"<<[^<>\n]{0,200}>>")
RELATED: Final = re.compile(r"[=<>≤≥≠≈≡]|\\(?:le|ge|ne|lt|gt|equiv|approx|sim)")
RUN_OF_WORDS: Final = re.compile(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}")
SIGN_KINDS: Final = {
    "×": ("*", "·"), "·": ("*", "·"), "÷": ("/", "/"), "−": ("-", "-"), "–": ("-", "-"), "{": ("(", "{"),
    "}": (")", "}"), "[": ("(", "["), "]": (")", "]"), "=": ("r", "="), "<": ("r", "<"), ">": ("r", ">"),
    "≤": ("r", "<="), "≥": ("r", ">="), "≠": ("r", "!="), "≈": ("r", "~"), "≡": ("r", "mod"), "°": ("d", "°"),
    "π": ("v", "pi"), "√": ("c", "sqrt"), ";": ("b", ";"), "²": ("s", "2"), "³": ("s", "3"), "~": ("o", "~"),
    "½": ("o", "½"), "¼": ("o", "¼"), "¾": ("o", "¾"), ":": ("o", ":"), "'": ("o", "'"), "?": ("b", "?"),
    '"': ("o", '"'), "…": ("o", "…"),
}  # fmt: skip
COMMANDS: Final = {
    "cdot": ("*", "·"), "times": ("*", "·"), "div": ("/", "/"), "%": ("%", "%"),
    "le": ("r", "<="), "leq": ("r", "<="), "leqslant": ("r", "<="), "ge": ("r", ">="), "geq": ("r", ">="),
    "geqslant": ("r", ">="), "ne": ("r", "!="), "neq": ("r", "!="), "not": ("r", "not"), "lt": ("r", "<"),
    "gt": ("r", ">"),
    "approx": ("r", "~"), "simeq": ("r", "~"), "equiv": ("r", "mod"), "lbrace": ("o", "{"), "{": ("o", "{"),
    "}": ("o", "}"), "\\": ("l", "\\\\"), "newline": ("l", "\\\\"), "implies": ("b", ""), "Rightarrow": ("b", ""),
    "Longrightarrow": ("b", ""), "iff": ("b", ""), "Leftrightarrow": ("b", ""), "therefore": ("b", ""),
    "to": ("b", ""), "rightarrow": ("b", ""), "circ": ("d", "°"), "degree": ("d", "°"),
    "pi": ("v", "pi"), "frac": ("c", "frac"), "dfrac": ("c", "frac"), "tfrac": ("c", "frac"), "cfrac": ("c", "frac"),
    "sqrt": ("c", "sqrt"), "binom": ("c", "binom"), "dbinom": ("c", "binom"), "tbinom": ("c", "binom"),
    "overline": ("c", "overline"), "pmod": ("m", "pmod"), "mod": ("m", "mod"), "bmod": ("/", "%"),
    "lfloor": ("(", "lfloor"), "rfloor": (")", "rfloor"), "lceil": ("(", "lceil"), "rceil": (")", "rceil"),
    "lvert": ("|", "|"), "rvert": ("|", "|"), "vert": ("|", "|"), "gcd": ("f", "gcd"), "log": ("f", "log"),
    "ln": ("f", "ln"), "exp": ("f", "exp"), "sin": ("f", "sin"), "cos": ("f", "cos"), "tan": ("f", "tan"),
    "cot": ("f", "cot"), "sec": ("f", "sec"), "csc": ("f", "csc"), "arcsin": ("f", "arcsin"),
    "arccos": ("f", "arccos"), "arctan": ("f", "arctan"), "lcm": ("f", "lcm"),
    "cis": ("f", "cis"),
}  # fmt: skip
GREEK: Final = frozenset(
    ("alpha", "beta", "gamma", "delta", "theta", "phi", "omega", "lambda", "mu", "sigma", "rho", "tau", "zeta", "ell")
)
NAMED: Final = {name: pair for name, pair in COMMANDS.items() if pair[0] == "f"}


def without_annotations(text: str) -> str:
    """The text with spaces for the annotations of a calculator, so that every place stays."""
    return ANNOTATION.sub(lambda match: " " * len(match[0]), text) if "<<" in text else text


def formulas_and_prose(text: str) -> Iterator[tuple[int, int, bool]]:
    """Start and end of each region that may hold a relation, and whether it is a formula."""
    done, place = 0, 0
    while match := OPENING.search(text, place):
        sign, start = match[0], match.start()
        place = match.end()
        if sign == "\\$":
            continue
        closing = CLOSING.get(sign) or r"\end" + sign[6:]
        end = text.find(closing, place, place + MAX_FORMULA)
        if end < 0 or (sign == "$" and _is_money(text, place, end)):
            continue
        yield done, start, False
        done = end + len(closing)
        if sign != "[asy]":
            yield place, end, True
        place = done
    yield done, len(text), False


CLOSING: Final = {"$": "$", "$$": "$$", r"\[": r"\]", r"\(": r"\)", "[asy]": "[/asy]"}


def _is_money(text: str, start: int, end: int) -> bool:
    """Whether the $ before text[start:end] opens no formula: what follows is prose, or the next $ is money as well."""
    content = text[start:end]
    if "\n\n" in content or text[end + 1 : end + 2].isdigit():
        return True
    if text[start : start + 1].isdigit() and "\\" not in content and content[-1:] in " (":
        return True
    return RUN_OF_WORDS.search(content) is not None and "\\text" not in content and "\\mbox" not in content


def tokens_of(text: str, start: int, end: int, *, is_formula: bool) -> list[Token]:
    """The tokens of a region. Spaces, sizes of brackets and boxes leave none."""
    pattern = MATHS if is_formula else PROSE
    tokens: list[Token] = []
    append = tokens.append
    place = start
    while place < end:
        match = pattern.match(text, place, end)
        assert match is not None  # the last alternative takes any character
        group, found = match.lastgroup, match[0]
        next_place = match.end()
        if group == "space":
            pass
        elif group == "number":
            append(Token("n" if len(found) < MAX_DIGITS else "o", found, place, next_place))
        elif group == "letter":
            append(Token("v", found, place, next_place))
        elif group == "sign":
            kind, name = SIGN_KINDS.get(found, (found, found))
            append(Token(kind, name, place, next_place))
        elif group == "command":
            name = found[1:]
            kind, name = COMMANDS.get(name) or (("v", name) if name in GREEK else ("o", name))
            append(Token(kind, name, place, next_place))
        elif group == "content":
            word = match["content"].strip()
            unknown = "o" if match["words"] == "operatorname" else "w"
            append(Token(*(NAMED.get(word) or (unknown, word)), place, next_place))
        elif group == "words":
            append(Token("w", found, place, next_place))
        elif group in ("angle", "named"):
            append(Token("v", group + match[group], place, next_place))
        elif group == "stop":
            append(Token("b", found, place, next_place))
        elif group == "matrix":
            name = match["matrix"]
            closing = text.find(r"\end{" + name + "}", place, min(end, place + MAX_FORMULA))
            after = closing + len(name) + 6
            if closing < 0 or name[:7] not in ("pmatrix", "bmatrix") or "&" in text[place:closing]:
                next_place = after if closing >= 0 else next_place
                append(Token("o", "matrix", place, next_place))
            else:
                append(Token("(", "column", place, next_place))
                tokens += tokens_of(text, next_place, closing, is_formula=is_formula)
                append(Token(")", "column", closing, after))
                next_place = after
        elif group == "block":
            append(Token("l", found, place, next_place))
        else:
            append(Token("o", found, place, next_place))
        place = next_place
    return tokens
