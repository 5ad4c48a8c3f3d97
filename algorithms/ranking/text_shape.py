"""The shape of a solution's text: lengths, repetition, hedging words. Nothing here reads what the text claims."""

import math
import re
from typing import Final

LONGEST: Final = 20_000  # characters that are looked at
WORDS: Final = {
    "conclusions": r"\b(?:therefore|thus|hence|so)\b",
    "doubts": r"\b(?:however|but|wait|actually|instead|although|unless|unfortunately|mistake|error|incorrect)\b",
    "assumptions": r"\b(?:assum\w+|suppose|let|guess\w*|try|trial)\b",
    "approximations": r"\bapprox\w*|\babout\b|\brounded?\b|\bestimate\w*|≈",
    "refusals": r"\b(?:cannot|can't|impossible|no solutions?|not possible|not enough|insufficient|undefined|unable)\b",
    "knowledge": r"\b(?:formula|theorem|identity|law|property|definition|known|recall)\b",
    "cases": r"\bcase\b|\bcases\b",
    "checks": r"\b(?:check|verify|substitut\w+|plugging|confirm)\b",
    "continuations": r"\b(?:continuing|pattern|and so on|similarly|repeat\w*)\b|\.\.\.|\\dots|\\ldots|\\cdots",
    "brute_force": r"\b(?:python|code|program|calculator|computer|algorithm|enumerate|listing|list)\b",
}
PATTERNS: Final = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in WORDS.items()}


def text_facts(question: str, solution: str) -> dict[str, float]:
    """Facts about the text of a solution, in O(length)."""
    text = solution[:LONGEST]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = text.split()
    sentences = max(1, len(re.findall(r"[.!?](?:\s|$)", text)))
    numbers = re.findall(r"\d+(?:\.\d+)?", text)
    asked = set(re.findall(r"\d+(?:\.\d+)?", question))
    return {
        "log_length": math.log1p(len(solution)),
        "log_question": math.log1p(len(question)),
        "length_for_question": math.log1p(len(solution)) - math.log1p(len(question)),
        "num_lines": float(len(lines)),
        "num_sentences": float(sentences),
        "words_per_sentence": len(words) / sentences,
        "repeated_lines": 1 - len(set(lines)) / len(lines) if lines else 0.0,
        "distinct_words": len(set(words)) / len(words) if words else 0.0,
        "num_equals": float(text.count("=")),
        "num_numbers": float(len(numbers)),
        "longest_number": float(max(map(len, numbers), default=0)),
        "decimals": float(sum("." in number for number in numbers)),
        "question_numbers_used": len(asked & set(numbers)) / len(asked) if asked else math.nan,
        "num_fractions": float(text.count("\\frac") + text.count("\\dfrac")),
        "num_roots": float(text.count("\\sqrt")),
        "num_displays": float(text.count("\\[") + text.count("$$") + text.count("\\begin{align")),
        "has_picture": float("[asy]" in question),
        "ends_open": float(not text.rstrip().endswith((".", "$", "!", "]", "}"))),
        **{f"num_{name}": float(len(pattern.findall(text))) for name, pattern in PATTERNS.items()},
    }
