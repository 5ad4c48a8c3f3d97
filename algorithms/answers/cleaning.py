r"""Normalise the notation of an answer: Unicode to LaTeX, spacing, fractions, words out of `\text{}`.

The result is LaTeX without spacing commands. Every word that is not mathematics is marked with « and », so that
later steps can distinguish a unit from a product of variables.
"""

import re
from collections.abc import Callable
from typing import Final

from algorithms.answers.extraction import closing_brace
from algorithms.answers.numerals import with_repeating_decimals
from algorithms.answers.units import SPEEDS, WORDS

SIGNS: Final = str.maketrans(
    {
        "−": "-", "–": "-", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
        "±": r"\pm ", "°": r"^\circ ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "θ": r"\theta ", "…": r"\ldots ",
        "²": "^2", "³": "^3", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⟨": r"\langle ",
        "⟩": r"\rangle ", "’": "'", "«": "", "»": "", "¢": r" \text{ cents} ", "′": "'", "″": "\"", "”": "\"",
        "“": "\"", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "",
    }
)  # fmt: skip
SPACING: Final = re.compile(
    r"\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|displaystyle|textstyle|limits|mathstrut)(?![a-zA-Z])"
)
TEXT: Final = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|mathit|operatorname|hbox)\s*(?=\{)"
)
WRAPPERS: Final = re.compile(r"\\(?:boxed|fbox|underline|mathop|ensuremath|bold|bm|pmb|boldsymbol)\s*(?=\{)")
NAMES: Final = frozenset((
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "ln",
    "lg", "exp", "sqrt", "pi", "gcd", "lcm", "mod", "infty", "inf", "theta", "alpha", "beta", "gamma", "phi",
    "omega", "cis", "binom", "frac",
))  # fmt: skip
ALIASES: Final = (
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\dbinom|\\tbinom", r"\\binom"),
    (r"\\(?:geqslant|geqq|geq)(?![a-zA-Z])|>=", r"\\ge "),
    (r"\\(?:leqslant|leqq|leq)(?![a-zA-Z])|<=", r"\\le "),
    (r"\\neq(?![a-zA-Z])", r"\\ne"),
    (r"\\not\s*=", r"\\ne "),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\varnothing", r"\\emptyset"),
    (r"\\(?:mathbb|mathbf|Bbb)\s*\{?([RZNQC])\}?", r"\\mathbb{\1}"),
    (r"\\(?:lbrace)(?![a-zA-Z])", r"\\{"),
    (r"\\(?:rbrace)(?![a-zA-Z])", r"\\}"),
    (r"\\(?:lvert|rvert|vert)(?![a-zA-Z])", "|"),
    (r"\\mid(?![a-zA-Z])", "|"),
    (r"\\(?:lbrack)(?![a-zA-Z])", "["),
    (r"\\(?:rbrack)(?![a-zA-Z])", "]"),
    (r"\\(?:dots|dotsc|dotsb|dotsm|cdots|ldots)(?![a-zA-Z])|\.\.\.", r"\\ldots "),
    (r"\\ast(?![a-zA-Z])|\*\*", lambda match: "^" if match[0] == "**" else "*"),
    (r"\\(?:degree|degrees)(?![a-zA-Z])|\^\s*\{\s*\\circ\s*\}|\^\s*\\circ|\^\{o\}", r"^\\circ "),
    (r"\\to(?![a-zA-Z])", ":"),
    (r"\\equiv(?![a-zA-Z])", "="),
    (r"\\colon(?![a-zA-Z])|\{\s*:\s*\}", ":"),
    (r"\\backslash(?![a-zA-Z])", r"\\setminus "),
    (r"\\([bBp]|small|[vV])matrix", r"\\\1matrix"),
    # 3.2e5; 2e-3 is a difference unless its first number is a decimal.
    (r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]\+?(\d+)(?![\w.])", r"\1\\cdot 10^{\2}"),
    (r"(?<![\w.\\])(\d+\.\d+)[eE]-(\d+)(?![\w.])", r"\1\\cdot 10^{-\2}"),
    # Binomial coefficients: C(10,3), 10C3, _{10}C_3.
    (r"(?<![a-zA-Z\\])C\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)", r"\\binom{\1}{\2}"),
    (r"(?<![\w\\.])(\d+)C(\d+)(?!\w)", r"\\binom{\1}{\2}"),
    (
        r"(?:\{\})?[_^]\s*(?:\{(\d+)\}|(\d))\s*C\s*_\s*(?:\{(\d+)\}|(\d))",
        lambda match: rf"\binom{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}",
    ),
)


# Two values between square brackets, of which one may be turned: [0,1[
TURNED_BRACKETS: Final = re.compile(r"([\[\]])([^\[\]()]*[^\[\]()\s,]\s*,\s*[^\[\]()\s,][^\[\]()]*)([\[\]])")


def clean(answer: str) -> str:
    """The normal form of an answer's text; "" for a missing answer."""
    text = _without_delimiters(answer.translate(SIGNS))
    text = re.sub(r"\\\\(?=[a-zA-Z]{2,})(?!\s)", r"\\", text) if "matrix" not in text and "array" not in text else text
    text = re.sub(r"(?<=\d)\s*(?:,\s*)?\\[!,]\s*(?=\d{3}(?!\d))", "", text)  # 10,\!000 and 10\,000
    text = re.sub(r"(?<=\d)\{,\}\s*(?:\\!)?\s*(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<!\\)\\(?:[!,;: ]|(?:quad|qquad|hspace\{[^}]*\}|thinspace)(?![a-zA-Z]))|~", " ", text)
    text = SPACING.sub(" ", text)
    text = re.sub(r"\\[vh]?phantom\s*(?:\{[^{}]*\}|.)", " ", text)
    for pattern, replacement in ALIASES:
        text = re.sub(pattern, replacement, text)
    text = _unwrap(text, WRAPPERS, lambda content: content)
    text = _unwrap(text, TEXT, _text_content)
    text = re.sub(r"\\sqrt\s*\[\s*([^\]]+)\]\s*([a-zA-Z0-9])", r"\\sqrt[\1]{\2}", text)
    text = re.sub(r"\\sqrt\s*([a-zA-Z0-9])", r"\\sqrt{\1}", text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"√\s*\(?(\w+)\)?", r"\\sqrt{\1}", text)
    text = _with_all_braces(text)
    text = re.sub(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}", text)
    text = re.sub(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi ", text)
    text = re.sub(r"(?<![\\a-zA-Z])(?:infinity|infty)(?![a-zA-Z])", r"\\infty ", text)
    text = re.sub(r"(?<=\d)\s*\^?\s*\{?\s*(?:«(?:st|nd|rd|th)»|(?:st|nd|rd|th)(?![a-zA-Z]))\s*\}?", "", text)
    if r"\sqrt[" not in text:
        text = TURNED_BRACKETS.sub(_half_open, text)
    text = with_repeating_decimals(text)
    text = _with_named_primes(text)
    text = re.sub(r"(?<![\\a-zA-Z])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp)(?=\s*\()", r"\\\1", text)
    text = re.sub(r"(?<=[\d}])\s*((?:mm|cm|m|km|ft|mi|mg|g|kg|ml|[lL])/(?:s|sec|min|h|hr))(?![\w^])", r" «\1» ", text)
    text = _mark_words(text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"» ?«", " ", text)
    return _without_trailing_marks(text)


def _half_open(match: re.Match[str]) -> str:
    """An interval with round brackets where its square brackets are turned."""
    opening, closing = "[" if match[1] == "[" else "(", "]" if match[3] == "]" else ")"
    return opening + match[2] + closing


def _with_named_primes(text: str) -> str:
    """Feet and inches, or minutes and seconds of arc: 5'3", 30^\\circ 30'."""
    single, double = ("arcminutes", "arcseconds") if r"\circ" in text else ("feet", "inches")
    text = re.sub(r"(\d)\s*(?:''|\")(?![\w(])", rf"\1 «{double}» ", text)
    return re.sub(r"(\d)\s*(?:'|\^\s*\{?\s*\\prime\s*\}?)(?!['a-zA-Z(])", rf"\1 «{single}» ", text)


def _without_delimiters(text: str) -> str:
    """Remove math delimiters and the markup around the text."""
    text = re.sub(r"\\[()\[\]]", " ", re.sub(r"\\\\(?=\[)", r"\\\\ ", text))
    # An escaped dollar means money. So does an unclosed dollar before a number.
    text = text.replace(r"\$", "¤")
    if text.count("$") % 2 == 1:
        text = re.sub(r"\$(?=\s*[\d.])", "¤", text, count=1)
    text = text.replace("$", " ").replace(r"\%", "%").replace("\\&", " and ")
    text = re.sub(r"(?<![\w)])\*\*([^*]+?)\*\*(?![\w(])", r"\1", text)  # bold markup, not a Python power
    return text.strip()


def _unwrap(text: str, command: re.Pattern[str], change: Callable[[str], str]) -> str:
    """Replace each command and its braced argument with `change(argument)`."""
    while match := command.search(text):
        end = closing_brace(text, match.end())
        if end is None:
            return text[: match.start()] + text[match.end() + 1 :]
        text = text[: match.start()] + change(text[match.end() + 1 : end]) + text[end + 1 :]
    return text


def _text_content(content: str) -> str:
    """The content of a text command: mathematics if it is a number, a letter or a function, else marked words."""
    bare = content.strip()
    if re.fullmatch(r"[-+]?[\d.,:/ ]+|[a-zA-Z]|[A-Z]?\d+", bare) and not re.fullmatch("[A-JLmgsh]", bare):
        return f" {bare} " if not re.fullmatch(r"[A-Z]?\d+", bare) else bare
    if bare in NAMES:
        return f"\\{bare} " if bare not in ("cis", "lcm") else f" {bare} "
    if "\\" in bare or not bare:
        return f" {bare} "
    return f" «{bare}» "


def _with_all_braces(text: str) -> str:
    r"""Add the braces missing in `\frac12`, `\frac 1{2}` and `\frac\pi2`, also for `\binom`."""
    part = r"\s*(\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|\\[a-zA-Z]+\s*(?:\{[^{}]*\})?|[a-zA-Z0-9])"

    def rebuilt(match: re.Match[str]) -> str:
        inside = [each.strip()[1:-1] if each.strip().startswith("{") else each.strip() for each in match.groups()[1:]]
        return f"\\{match[1]}{{{inside[0]}}}{{{inside[1]}}}"

    return re.sub(rf"\\(frac|binom){part}{part}", rebuilt, text)


def _mark_words(text: str) -> str:
    """Mark words outside commands: runs of letters that are neither functions nor products of variables."""

    def mark(match: re.Match[str]) -> str:
        word, touching = match[0], match.start() > 0 and match.string[match.start() - 1] in "0123456789})]"
        if word.lower() in NAMES:
            return f"\\{word.lower()} " if word.lower() not in ("mod", "lcm", "cis") else word
        return f" «{word}» " if _is_word(word, touching=touching) else word

    pieces = re.split(r"(«[^«»]*»|\\[a-zA-Z]+(?:\{[a-z]*matrix\}|\{array\}(?:\{[^}]*\})?)?)", text)
    return "".join(
        piece if index % 2 else re.sub(r"(?<![a-zA-Z_])[a-zA-Z][a-zA-Z'’-]*(?![a-zA-Z(])", mark, piece)
        for index, piece in enumerate(pieces)
    )


def _is_word(word: str, *, touching: bool) -> bool:
    """Whether letters form a word, not a product of variables: abc, or xyz in 2xyz (`touching` its factor)."""
    if word.lower() in SHORT_WORDS:
        return True
    if len(word) > 2 and (word.lower() in WORDS or word.lower() in SPEEDS):
        return True
    is_run = "".join(sorted(word)) in "abcdefghijklmnopqrstuvwxyz"
    return len(word) > 2 and not is_run and not touching


SHORT_WORDS: Final = frozenset((
    "cm", "mm", "km", "ft", "yd", "mi", "kg", "mg", "hr", "or", "is", "of", "no", "to", "in", "an", "am", "pm",
    "oz", "lb", "cc", "sq", "as", "at", "by", "if", "it", "on", "so", "up", "we", "be",
))  # fmt: skip


def _without_trailing_marks(text: str) -> str:
    text = text.strip()
    while True:
        before = text
        text = text.rstrip(" ,;:?").lstrip(" ,;:").removesuffix("»!") + ("»" if text.endswith("»!") else "")
        if text.endswith(".") and not re.search(r"[ap]\.m\.$", text):
            text = text[:-1]
        if text.endswith("\\") or (text.endswith("}") and text.count("}") > text.count("{")):
            text = text[:-1]
        if text == before:
            return text
