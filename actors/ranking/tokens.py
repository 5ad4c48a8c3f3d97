"""Solutions as tokens: question, separator, solution, cut to the trunk's window.

A text that does not fit loses its beginning. The end of a solution holds its answer, and the end of a question what it
asks for. The question is cut first, but keeps half the window if it needs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from actors.models.source import ModelSource
from actors.ranking.examples import EXAMPLE_FIELDS
from algorithms.ranking.solutions import Solution

TOKEN_SCHEMA: Final = pa.schema(
    [
        *EXAMPLE_FIELDS,
        ("tokens", pa.large_list(pa.int32())),
        ("first", pa.int32()),  # of the solution's tokens
        ("end", pa.int32()),  # after the last of them
        ("is_cut", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Tokens:
    """A question and a solution, whose own tokens are those from `first` up to `end`."""

    tokens: list[int]
    first: int
    end: int
    is_cut: bool


@dataclass(frozen=True)
class Marks:
    """The special tokens around question and solution: [CLS] question [SEP] solution [SEP] for BERT."""

    start: tuple[int, ...]
    separator: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of tokens that they take from the window."""
        return len(self.start) + len(self.separator) + len(self.stop)


def marks_of(tokenizer: Any) -> Marks:
    """The marks that a tokenizer has. A decoder's has no [SEP]: its end-of-text token separates, or a blank line."""
    start = next((each for each in (tokenizer.cls_token_id, tokenizer.bos_token_id) if each is not None), None)
    stop = tokenizer.sep_token_id
    separator = stop if stop is not None else tokenizer.eos_token_id
    blank = tokenizer("\n\n", add_special_tokens=False)["input_ids"] if separator is None else [separator]
    return Marks(() if start is None else (start,), tuple(blank), () if stop is None else (stop,))


def fit_window(question: Sequence[int], solution: Sequence[int], marks: Marks, window: int) -> Tokens:
    """Question and solution between their marks, in at most `window` tokens."""
    room = window - marks.size
    num_question = min(len(question), max(room - len(solution), room // 2))
    num_solution = min(len(solution), room - num_question)
    before = [*marks.start, *question[len(question) - num_question :], *marks.separator]
    tokens = [*before, *solution[len(solution) - num_solution :], *marks.stop]
    is_cut = num_question + num_solution < len(question) + len(solution)
    return Tokens(tokens, len(before), len(before) + num_solution, is_cut)


class SolutionTokenizer:
    """Tokenises solutions for a window, with a tokenizer of transformers."""

    def __init__(self, tokenizer: Any, window: int) -> None:
        self._tokenizer = tokenizer
        self._window = window
        self._marks = marks_of(tokenizer)

    def __call__(self, solutions: Sequence[Solution]) -> list[Tokens]:
        """The tokens of each solution."""
        questions = list(dict.fromkeys(each.question for each in solutions))  # the samples of a problem share one
        of_question = dict(zip(questions, self._encoded(questions), strict=True))
        texts = self._encoded([each.text for each in solutions])
        return [
            fit_window(of_question[each.question], text, self._marks, self._window)
            for each, text in zip(solutions, texts, strict=True)
        ]

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        settings = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
        return list(self._tokenizer(texts, **settings, verbose=False)["input_ids"])


def describe_tokens(solutions: Sequence[Solution], source: ModelSource, window: int) -> list[dict[str, Any]]:
    """The columns of TOKEN_SCHEMA that only an encoder ranker has."""
    return [vars(each) for each in SolutionTokenizer(source.tokenizer, window)(solutions)]
