"""Group many answers to one question into classes of equal answers, for votes.

Two answers share a class if a chain of equivalent answers connects them. So the classes do not depend on the
order of the answers, although `equivalence` is not transitive (5 cm = 5 = 5 m).
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from algorithms.answers.equivalence import check_parsable, equivalent
from algorithms.answers.structure import UnparsableAnswer

Equal = Callable[[str, str], bool]


def answer_classes(answers: Sequence[str | None], equal: Equal = equivalent) -> list[int | None]:
    """The class of each answer, numbered in order of first appearance; None if it is missing or unparsable.

    Compares each pair of distinct texts at most once: at most N (N - 1) / 2 comparisons for N distinct texts.
    """
    texts = dict.fromkeys(text.strip() for text in answers if text is not None and _is_parsable(text))
    by_text = _classes({text: set() for text in texts}, equal)
    return [None if text is None else by_text.get(text.strip()) for text in answers]


def joined_classes(sources: Sequence[Sequence[str]], equal: Equal = equivalent) -> list[list[int]]:
    """The classes of several sources as one numbering: for each source one answer of each of its classes.

    Answers of one source are known to differ, so only those of different sources are compared.
    """
    owners: dict[str, set[int]] = {}
    for number, answers in enumerate(sources):
        for text in answers:
            owners.setdefault(text.strip(), set()).add(number)
    by_text = _classes(owners, equal)
    return [[by_text[text.strip()] for text in answers] for answers in sources]


class GrowingClasses:
    """The classes of answers that arrive one by one: at each moment those of `answer_classes` of the answers so far.

    A later answer may join two earlier classes, so numbers change: read `classes` anew after each `add`.
    """

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}  # each distinct text, and its place in `_leaders`
        self._leaders: list[int] = []  # the first text in the class of each text
        self._answers: list[int | None] = []

    @property
    def texts(self) -> list[str]:
        """The distinct answers so far."""
        return list(self._texts)

    @property
    def classes(self) -> list[int | None]:
        """The class of each answer, numbered in order of first appearance; None where there was no answer."""
        numbers: dict[int, int] = {}
        leaders = [None if place is None else self._leaders[place] for place in self._answers]
        return [None if each is None else numbers.setdefault(each, len(numbers)) for each in leaders]

    def add(self, answer: str | None, equal_to: Collection[str] = ()) -> None:
        """Add an answer, None for a sample without one. `equal_to`: the texts in `texts` that it equals."""
        if answer is None:
            self._answers.append(None)
            return
        if answer not in self._texts:
            place = self._texts[answer] = len(self._leaders)
            joined = {self._leaders[self._texts[text]] for text in equal_to}
            first = min(joined, default=place)
            self._leaders = [first if leader in joined else leader for leader in self._leaders] + [first]
        self._answers.append(self._texts[answer])


def _classes(texts: Mapping[str, set[int]], equal: Equal) -> dict[str, int]:
    """The class of each text. Texts that have a source in common are not compared."""
    names = list(texts)
    leaders = list(range(len(names)))  # the first text in the class of each text, as in union-find

    def leader(index: int) -> int:
        while leaders[index] != index:
            index = leaders[index]
        return index

    for later, one in enumerate(names):
        for earlier, other in enumerate(names[:later]):
            first, second = sorted((leader(earlier), leader(later)))
            if first != second and not texts[one] & texts[other] and _equal_or_false(other, one, equal):
                leaders[second] = first
    numbers = {first: number for number, first in enumerate(dict.fromkeys(map(leader, range(len(names)))))}
    return {text: numbers[leader(index)] for index, text in enumerate(names)}


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
