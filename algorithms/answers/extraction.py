r"""Where a solution states its final answer.

The ways, surest first; the first that finds something wins, and its name is kept with the answer:

    boxed       the last balanced \boxed{} or \fbox{}, also \boxed 2
    hashes      "#### n" with a number, as GSM8K ends its solutions
    stated      "the answer is ...", "final answer: ...", "A: ...", "答案是..."
    concluded   the value behind the last "=" or "is" of a last sentence that begins with so, thus, therefore:
                sure enough to call a solution right, not to call it wrong
    last_number the last number, only where the corpus' answers are numbers; no surer than the one before

Thoughts in <think> are no part of a solution, nor is the next problem that a model writes for itself.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

FoundBy: TypeAlias = Literal["boxed", "hashes", "stated", "concluded", "last_number"]

# A dash before a number is its sign unless it joins it to something ("10-12") or opens a list item ("- 18").
SIGN: Final = r"(?:(?<![\w)\]}.])[-−+])?"
NUMBER: Final = rf"{SIGN}(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?|{SIGN}\.\d+"
BOX: Final = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
HASHES: Final = re.compile(r"^[ \t]*####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
NEXT_PROBLEM: Final = re.compile(r"\n\s*\n\s*(?:\*\*|#+\s*)?(?:Problem|Question|Q|User|Human)\s*\d*\s*:")
# Between two boxes that are one answer: "$ or $x = "
ENUMERATED: Final = re.compile(r"[\s$]*(?:,\s*(?:and|or)?|and|or)[\s$]*(?:[a-zA-Z]\w?\s*=\s*)?[\s$]*")
NEAR_THE_END: Final = 400  # characters that may follow a stated answer
STATED: Final = re.compile(
    r"""(?:\b(?:(?:final\s+)?answer|final\s+result)\s*(?:\*\*)?\s*
            (?:(?:to\s[^.\n:=]{1,80}?\s)?\b(?:is|are|was|equals|will\ be|would\ be|must\ be|should\ be)\b
               (?:\s*(?:therefore|thus|then|simply|just|given\ by)\b)?\s*:?|:)
        |答案\s*[是为:：]\s*[:：]?
        |^[ \t]*(?:\*\*)?(?:A|Ans)[ \t]*:(?=[^\n]*\Z))
        \s*(?:\*\*)?\s*(?=\S)""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
BARE_NAME: Final = re.compile(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([^()]*\))?")
CONCLUSION: Final = re.compile(r"\b(?:so|thus|therefore|hence|in\s+conclusion|consequently|finally)\b", re.IGNORECASE)
NOT_AN_ANSWER: Final = re.compile(
    r"\s*(?:as\s+follows|not\b|that\b|the\s+same\b|correct\b|in\s+the\s+form)", re.IGNORECASE
)


# A full stop ends a sentence unless it stands inside a number or an "a.m."; reasons are no part of an answer.
SENTENCE_END: Final = re.compile(
    r"。|,?\s*\(?\b(?:i\.e\.|that is,)|(?<!\bp)(?<!\ba)\.(?=\s|\*|$|\$\s*$)"
    r"|\s+(?:because|since|which|when|for\s+a\s+total)\b"
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer a solution states, as it stands there, and how it was found.

    `last` is the last box alone where the answer joins several of an enumeration: it may be meant too.
    """

    answer: str
    found_by: FoundBy
    last: str | None = None


def extract(solution: str, *, last_number: bool = False) -> Extracted | None:
    """The final answer that a solution states; None if it states none."""
    solution = solution.rsplit("</think>", 1)[-1]
    *before, _ = NEXT_PROBLEM.split(solution, maxsplit=1) if NEXT_PROBLEM.search(solution) else (solution,)
    first = _extract(before[0], last_number=False) if before else None
    if first is not None and first.found_by != "concluded":
        return first
    return _extract(solution, last_number=last_number)


def _extract(solution: str, *, last_number: bool) -> Extracted | None:
    boxed = _boxed_answer(solution)
    if boxed is not None:
        last = last_boxed(solution)
        return Extracted(boxed, "boxed", last if last != boxed else None) if boxed else None
    hashes = [found for found in HASHES.findall(solution) if is_number(found)]  # others are Markdown headings
    if hashes:
        return Extracted(hashes[-1], "hashes")
    stated = _stated(solution)
    if stated is not None:
        return Extracted(stated, "stated")
    concluded = _concluded(solution)
    if concluded is not None:
        return Extracted(concluded, "concluded")
    numbers = re.findall(NUMBER, solution) if last_number else []
    return Extracted(numbers[-1].strip(), "last_number") if numbers else None


def _boxed_answer(text: str) -> str | None:
    r"""What the last box holds, or the last ones of an enumeration (\boxed{3} or \boxed{5}); "" of an empty one."""
    matches = list(BOX.finditer(text))
    if matches and re.match(r"\{\s*\}", text[matches[-1].end() :]):
        return ""
    answer = last_boxed(text)
    spans = [(match, closing_brace(text, match.end())) for match in matches if text[match.end() :].startswith("{")]
    closed = [(match.start(), text[match.end() + 1 : end].strip(), end) for match, end in spans if end is not None]
    if not closed or closed[-1][1] != answer:
        return answer
    first = len(closed) - 1
    while first and ENUMERATED.fullmatch(text[closed[first - 1][2] + 1 : closed[first][0]]):
        first -= 1
    return ", ".join(content for _, content, _ in closed[first:])


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{}` or `\fbox{}` holds whose braces balance; also `\boxed 2`. None if there is none."""
    for match in reversed(list(BOX.finditer(text))):
        start = match.end()
        if text[start : start + 1] != "{":
            bare = re.match(r"(?:\\[a-zA-Z]+(?:\{[^{}]*\})*|[^\s$\\])[^\s$]*", text[start:])
            content = bare[0].rstrip(".,;") if bare else ""
        else:
            end = closing_brace(text, start)
            content = text[start + 1 : end].strip() if end is not None else ""
        if content:
            return content
    return None


def closing_brace(text: str, start: int) -> int | None:
    r"""Where the brace that opens at `start` is closed; `\{` and `\}` do not count."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def is_number(answer: str) -> bool:
    """Whether an answer is a plain number, in digits."""
    return re.fullmatch(rf"\$?(?:{NUMBER})%?", answer.strip()) is not None


def _stated(solution: str) -> str | None:
    solution = solution.rstrip()
    for match in reversed(list(STATED.finditer(solution))):
        if len(solution) - match.end() > NEAR_THE_END:
            return None
        answer = _first_statement(solution[match.end() :])
        if answer and not NOT_AN_ANSWER.match(answer):
            return answer
    return None


def _first_statement(rest: str) -> str | None:
    """The answer that a text begins with: one span of mathematics, or up to the end of the sentence."""
    display = re.match(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", rest, re.DOTALL)
    if display:
        return (display[1] or display[2]).strip()
    line = rest.lstrip().split("\n", 1)[0]
    sentence = SENTENCE_END.split(line)[0]
    answer = sentence.strip().strip("*").rstrip(".,;:!").strip()
    return answer or None


def _concluded(solution: str) -> str | None:
    """The value at the end of a last sentence that draws a conclusion."""
    text = re.sub(r"\[asy\].*?(?:\[/asy\]|$)", "", solution, flags=re.DOTALL).rstrip()
    starts = [match.start() for match in CONCLUSION.finditer(text)]
    if not starts:
        return None
    last = text[starts[-1] :]
    if len(last) > 300:
        return None
    last = last.replace(r"\$", "")
    if re.search(r"\b(?:no|not|cannot|can't|never|undefined|impossible|contradiction|diverges)\b", last):
        return None
    several = re.search(r"\b(?:are|is)\s+((?:\$[^$]+\$(?:\s*,)?\s*(?:and|or)?\s*){2,})[^$]*$", last)
    if several:
        return several[1].strip().rstrip(".,")
    spans = re.findall(r"\$\$?([^$]+)\$\$?|\\\[(.+?)\\\]|\\\((.+?)\\\)", last, re.DOTALL)
    for parts in reversed(spans):
        span = next(part for part in parts if part).strip().rstrip(".,;")
        if re.search(r"[<>]|\\(?:le|ge|ne)", span):
            return None
        value: str = span.rsplit("=", 1)[-1].strip()
        if not BARE_NAME.fullmatch(value) and re.search(r"\w", value) and value != r"\boxed{}":
            return value
    if spans:
        return None
    plain = re.search(rf"(?:(?<![<>!])=|\bis|\bare)\s*\$?({NUMBER})(?![\w^/*])[^\d=]*$", last)
    return plain[1].strip() if plain else None
