"""Group many answers to one question into classes of equal answers, for votes.

Two answers share a class if a chain of equivalent answers connects them. So the classes do not depend on the
order of the answers, although `equivalence` is not transitive (5 cm = 5 = 5 m).
"""

from collections.abc import Callable, Sequence

from algorithms.answers.equivalence import check_parsable, equivalent
from algorithms.answers.structure import UnparsableAnswer

Equal = Callable[[str, str], bool]


def answer_classes(answers: Sequence[str | None], equal: Equal = equivalent) -> list[int | None]:
    """The class of each answer, numbered in order of first appearance; None if it is missing or unparsable.

    Compares each pair of distinct texts at most once: at most N (N - 1) / 2 comparisons for N distinct texts.
    """
    texts = list(dict.fromkeys(text.strip() for text in answers if text is not None and _is_parsable(text)))
    leaders = list(range(len(texts)))  # the first text in the class of each text, as in union-find

    def leader(index: int) -> int:
        while leaders[index] != index:
            index = leaders[index]
        return index

    for later in range(len(texts)):
        for earlier in range(later):
            first, second = sorted((leader(earlier), leader(later)))
            if first != second and _equal_or_false(texts[earlier], texts[later], equal):
                leaders[second] = first
    numbers = {first: number for number, first in enumerate(dict.fromkeys(map(leader, range(len(texts)))))}
    by_text = {text: numbers[leader(index)] for index, text in enumerate(texts)}
    return [None if text is None else by_text.get(text.strip()) for text in answers]


def text_classes(answers: Sequence[str | None]) -> list[int | None]:
    """The class of each answer if only equal texts are equal, for answers that nobody can compare."""
    numbers: dict[str, int] = {}
    return [None if text is None else numbers.setdefault(text.strip(), len(numbers)) for text in answers]


def _is_parsable(text: str) -> bool:
    try:
        check_parsable(text)
    except UnparsableAnswer:
        return False
    return True


def _equal_or_false(one: str, other: str, equal: Equal) -> bool:
    try:
        return equal(one, other)
    except UnparsableAnswer:
        return False
