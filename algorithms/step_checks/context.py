"""The words around a statement that make it no claim: suppositions, contradictions, alternatives."""

import re
from typing import Final

BEFORE: Final = 70  # characters
AFTER: Final = 60


def _words(*lines: str) -> re.Pattern[str]:
    """A pattern of whole words; a star stands for any ending."""
    words = [word.replace("*", r"\w*").replace("_", " ") for line in lines for word in line.split()]
    return re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)


# What makes a false statement no claim.
DENIED: Final = re.compile(
    r"contradict|impossib|not possible|is false|not true|not equal|isn't|not satisf|does not|doesn't|not work|cannot|"
    r"can't|no solution|absurd|invalid|incorrect|wrong|mistake|too (?:small|large|big|high|low|much|many)|never|"
    r"not (?:a|an|in|the|valid|correct|hold|an integer)\b|fails?\b|no such|reject|extraneous|unless|neither"
)
# Words before a value that is tried or chosen, not found.
TRIED: Final = _words(
    "let suppose assum* if when where whenever case try trying test* check* guess* consider setting set plug*",
    "substitut* for otherwise unless or either choose take example instance",
)
# Words before an equation that is given, not derived.
SUPPOSED: Final = _words(
    "let suppose assum* if when where whenever defin* denote want wish need must should solv* try trying test* check*",
    "guess* consider case either or condition set setting for given otherwise unless plug* substitut* find equation",
    "equations know represent* told first second third another other similarly likewise",
)
# Words between an expression and the same one in another form.
REWRITTEN: Final = _words(
    "expand* factor* simplif* rewrit* rearrang* distribut* collect* combin* becomes reduces complet*_the_square",
    "equivalent multiplying_out foil",
)
# Words between an equation and another that is no longer the same.
CHANGED: Final = _words(
    "squar* cub* square_root cube_root root taking substitut* plug* replac* let setting adding subtracting multipl*",
    "divid* since because using from first second third other another also and_so similarly if case when or eliminat*",
    "each sum product identity equations system implicit* factors?_out quadratic by the_(?!left|right|given)*_equation",
)
RESTATED: Final = re.compile(r"equation(?: as)?[\s$\\\[]*$")  # "rewrite the equation x - y = 4 as"
# Words between an equation and one that follows from it.
DERIVED: Final = re.compile(
    r"\b(?:so|then|thus|hence|therefore|gives?|giving|get|yields?|yielding|obtain|means|implies|which|simplif\w*|"
    r"have|find|subtracting|adding|dividing|multiplying|solving|both sides|rearranging|combining|expanding)\b|"
    r"\\implies|\\Rightarrow|⇒",
    re.IGNORECASE,
)
# Words between an equation and another fact.
UNRELATED: Final = _words(
    "and or if let also other another second first case when quadratic square_root either since because squar* by",
    "theorem law line",
)


def is_denied(text: str, start: int, end: int) -> bool:
    """Whether the words around a statement say that it does not hold."""
    around = text[max(0, start - BEFORE) : start].rpartition("\n\n")[2] + " ... " + text[end : end + AFTER]
    return DENIED.search(around.lower()) is not None


def sentence_before(text: str, start: int) -> str:
    """The words before a statement in its sentence."""
    part = text[max(0, start - BEFORE) : start]
    cut = max(part.rfind(". "), part.rfind(".$"), part.rfind("\n"), part.rfind(".\\]"))
    return part[cut + 1 :]
