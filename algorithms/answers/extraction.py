r"""Extract the final answer that a solution states.

The methods, most reliable first. The first match wins, and its name is kept with the answer:

    boxed       the last balanced \boxed{} or \fbox{}, also \boxed 2
    hashes      "#### n" with a number, as at the end of GSM8K solutions
    stated      "the answer is ...", "final answer: ...", "A: ...", "答案是..."
    concluded   the value after the last "=" or "is" in a final sentence that starts with so, thus or therefore;
                it can prove a solution right, but not wrong
    last_number the last number, only if the answers in the corpus are numbers; as unreliable as `concluded`

The text in <think> tags is not part of the solution. Neither is a new problem that the model poses itself.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

FoundBy: TypeAlias = Literal["boxed", "hashes", "stated", "concluded", "last_number"]

# A dash before a number is a sign, unless it joins two terms ("10-12") or starts a list item ("- 18").
SIGN: Final = r"(?:(?<![\w)\]}.])[-−+])?"
NUMBER: Final = rf"{SIGN}(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?|{SIGN}\.\d+"
BOX: Final = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
HASHES: Final = re.compile(r"^[ \t]*####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
NEXT_PROBLEM: Final = re.compile(r"\n\s*\n\s*(?:\*\*|#+\s*)?(?:Problem|Question|Q|User|Human)\s*\d*\s*:")
# The text between two boxes that form one answer, for example "$ or $x = ".
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


# A full stop ends a sentence, except inside a number or "a.m." A reason is not part of the answer.
SENTENCE_END: Final = re.compile(
    r"。|,?\s*\(?\b(?:i\.e\.|that is,)|(?<!\bp)(?<!\ba)\.(?=\s|\*|$|\$\s*$)"
    r"|\s+(?:because|since|which|when|for\s+a\s+total)\b"
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer as the solution states it, and the method that found it.

    If the answer joins several boxes of an enumeration, `boxes` are their contents: one may be meant as the answer.
    """

    answer: str
    found_by: FoundBy
    boxes: tuple[str, ...] = ()


def extract(solution: str, *, last_number: bool = False) -> Extracted | None:
    """The final answer that a solution states, or None."""
    solution = solution.rsplit("</think>", 1)[-1]
    *before, _ = NEXT_PROBLEM.split(solution, maxsplit=1) if NEXT_PROBLEM.search(solution) else (solution,)
    first = _extract_from_solution(before[0], last_number=False) if before else None
    if first is not None and first.found_by != "concluded":
        return first
    return _extract_from_solution(solution, last_number=last_number)


def _extract_from_solution(solution: str, *, last_number: bool) -> Extracted | None:
    boxes = _last_boxes(solution)
    if boxes is not None:
        return Extracted(", ".join(boxes), "boxed", boxes if len(boxes) > 1 else ()) if boxes else None
    hashes = [found for found in HASHES.findall(solution) if is_number(found)]  # the rest are Markdown headings
    if hashes:
        return Extracted(hashes[-1], "hashes")
    stated = _stated_answer(solution)
    if stated is not None:
        return Extracted(stated, "stated")
    concluded = _concluded_value(solution)
    if concluded is not None:
        return Extracted(concluded, "concluded")
    numbers = re.findall(NUMBER, solution) if last_number else []
    return Extracted(numbers[-1].strip(), "last_number") if numbers else None


def _last_boxes(text: str) -> tuple[str, ...] | None:
    r"""The content of the last box, or of all boxes in a final enumeration (\boxed{3} or \boxed{5}); () if empty."""
    matches = list(BOX.finditer(text))
    if matches and re.match(r"\{\s*\}", text[matches[-1].end() :]):
        return ()
    answer = last_boxed(text)
    spans = [(match, closing_brace(text, match.end())) for match in matches if text[match.end() :].startswith("{")]
    closed = [(match.start(), text[match.end() + 1 : end].strip(), end) for match, end in spans if end is not None]
    if not closed or closed[-1][1] != answer:
        return None if answer is None else (answer,)
    first = len(closed) - 1
    while first and ENUMERATED.fullmatch(text[closed[first - 1][2] + 1 : closed[first][0]]):
        first -= 1
    return tuple(content for _, content, _ in closed[first:])


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}` with balanced braces, also of `\boxed 2`; None without one."""
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
    r"""The index of the brace that closes the one at `start`; `\{` and `\}` do not count."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def is_number(answer: str) -> bool:
    """Whether an answer is a plain number in digits."""
    return re.fullmatch(rf"\$?(?:{NUMBER})%?", answer.strip()) is not None


def _stated_answer(solution: str) -> str | None:
    solution = solution.rstrip()
    for match in reversed(list(STATED.finditer(solution))):
        if len(solution) - match.end() > NEAR_THE_END:
            return None
        answer = _first_statement(solution[match.end() :])
        if answer and not NOT_AN_ANSWER.match(answer):
            return answer
    return None


def _first_statement(rest: str) -> str | None:
    """The answer at the start of a text: a display formula, or the rest of the sentence."""
    display = re.match(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", rest, re.DOTALL)
    if display:
        return (display[1] or display[2]).strip()
    line = rest.lstrip().split("\n", 1)[0]
    sentence = SENTENCE_END.split(line)[0]
    answer = sentence.strip().strip("*").rstrip(".,;:!").strip()
    return answer or None


def _concluded_value(solution: str) -> str | None:
    """The value at the end of a final sentence that draws a conclusion."""
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
