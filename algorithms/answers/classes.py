"""Many answers to one question -> classes of the same answer, for votes.

Two answers are in one class when a chain of equivalent answers joins them: a class is an equivalence class
by construction, whatever the order of the answers, although `equivalence` is not transitive (5 cm = 5 = 5 m).
"""

from collections.abc import Callable, Sequence

from algorithms.answers.equivalence import check_parsable, equivalent
from algorithms.answers.structure import UnparsableAnswer

Equal = Callable[[str, str], bool]


def answer_classes(answers: Sequence[str | None], equal: Equal = equivalent) -> list[int | None]:
    """The class of each answer, numbered as they first appear; None for an answer that is missing or unparsable.

    Compares each pair of different texts once, so N different answers cost N (N - 1) / 2 comparisons.
    """
    texts = list(dict.fromkeys(text.strip() for text in answers if text is not None and _counts(text)))
    leaders = list(range(len(texts)))  # of each text, the first text of its class

    def leader(index: int) -> int:
        while leaders[index] != index:
            index = leaders[index]
        return index

    for later in range(len(texts)):
        for earlier in range(later):
            first, second = sorted((leader(earlier), leader(later)))
            if first != second and _equal(texts[earlier], texts[later], equal):
                leaders[second] = first
    numbers = {first: number for number, first in enumerate(dict.fromkeys(map(leader, range(len(texts)))))}
    by_text = {text: numbers[leader(index)] for index, text in enumerate(texts)}
    return [None if text is None else by_text.get(text.strip()) for text in answers]


def _counts(text: str) -> bool:
    try:
        check_parsable(text)
    except UnparsableAnswer:
        return False
    return True


def _equal(one: str, other: str, equal: Equal) -> bool:
    try:
        return equal(one, other)
    except UnparsableAnswer:
        return False
