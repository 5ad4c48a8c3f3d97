"""Rows of solutions -> lessons, and lessons -> the examples a method trains on.

A lesson is one solution of a question, right or wrong. An example is what must lie in one batch together: one
solution, a pair for ORPO, a right solution among wrong ones for contrastive learning.

Rows may be records of `jobs.grade` (right, wrong), of `jobs.refine` (refined; the original as its rejected
partner), exports of `jobs.export` and any other rows with prompt and completion, messages, or prompt, chosen
and rejected. Knows no tokens.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from algorithms.chains import Chain, answer_step
from algorithms.sampling import Prompt

# Why a row, or a solution of it, is not trained on.
UNUSED: Final = MappingProxyType(
    {
        "no_columns": "the row has none of the sets of columns that are understood",
        "not_text": "a column that must hold text, or messages, does not",
        "empty": "the prompt or the solution is empty",
        "quarantined": "the row was quarantined by the job that wrote it",
        "not_graded": "whether the solution is right is not known",
        "held_out": "the problem is held out",
        "not_asked_for": "the method trains on right ones, or wrong ones, or pairs, and this is another",
        "no_partner": "the question has no right solution, or no wrong one, to set against it",
        "too_long": "the prompt and the solution have more tokens than --max-tokens",
    }
)
SPLITS: Final = {"train": "train", "validation": "validation"}


class UnusedRow(ValueError):
    """A row without a lesson; the reason is a key of UNUSED."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One solution of a question. `prompt` is None where only the `question` is given, and a style makes it one."""

    id: str
    question: str
    prompt: Prompt | None
    text: str
    is_right: bool
    split: str = "train"


@dataclass(frozen=True, slots=True)
class Example:
    """Lessons that must lie in one batch together, the right one first."""

    id: str
    lessons: tuple[Lesson, ...]


def read_lessons(record: Any, row_id: str) -> list[Lesson]:
    """The lessons of a row. Raises UnusedRow."""
    if not isinstance(record, Mapping):
        raise UnusedRow("no_columns")
    for columns, read in READERS:
        if all(name in record for name in columns):
            return read(record, str(record.get("id") or row_id))
    raise UnusedRow("no_columns")


def _graded(record: Mapping[str, Any], row_id: str) -> list[Lesson]:
    if record["status"] == "quarantined":
        raise UnusedRow("quarantined")
    if record["correct"] is None:
        raise UnusedRow("not_graded")
    split = record.get("split") or "train"
    if split not in SPLITS:
        raise UnusedRow("held_out")
    return [Lesson(row_id, _text(record, "question"), None, _text(record, "rationale"), record["correct"], split)]


def _refined(record: Mapping[str, Any], row_id: str) -> list[Lesson]:
    if record["status"] == "quarantined":
        raise UnusedRow("quarantined")
    question = _text(record, "question")
    texts = []
    for name in ("refined_steps", "steps"):
        steps = tuple(record[name])
        stated = answer_step(Chain(question, steps, record["answer"])) is not None
        texts.append(record["joiner"].join(steps if stated else [*steps, record["answer"]]))
    lessons = [Lesson(row_id, question, None, texts[0], True)]
    if record["status"] == "refined":
        lessons.append(Lesson(f"{row_id}#original", question, None, texts[1], False))
    return lessons


def _preference(record: Mapping[str, Any], row_id: str) -> list[Lesson]:
    prompt, question = _prompt(record["prompt"])
    return [
        Lesson(f"{row_id}#{name}", question, prompt, _reply(record[name]), is_right)
        for name, is_right in (("chosen", True), ("rejected", False))
    ]


def _completion(record: Mapping[str, Any], row_id: str) -> list[Lesson]:
    prompt, question = _prompt(record["prompt"])
    return [Lesson(row_id, question, prompt, _reply(record["completion"]), True)]


def _messages(record: Mapping[str, Any], row_id: str) -> list[Lesson]:
    messages = _turns(record["messages"])
    if len(messages) < 2 or messages[-1][0] != "assistant":
        raise UnusedRow("not_text")
    prompt = messages[:-1]
    return [Lesson(row_id, prompt[-1][1], prompt, _not_empty(messages[-1][1]), True)]


READERS: Final[tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any], str], list[Lesson]]], ...]] = (
    (("question", "rationale", "correct", "status"), _graded),
    (("question", "steps", "refined_steps", "answer", "status"), _refined),
    (("prompt", "chosen", "rejected"), _preference),
    (("prompt", "completion"), _completion),
    (("messages",), _messages),
)


def _text(record: Mapping[str, Any], name: str) -> str:
    if not isinstance(record[name], str):
        raise UnusedRow("not_text")
    return _not_empty(record[name])


def _not_empty(text: str) -> str:
    if not text.strip():
        raise UnusedRow("empty")
    return text


def _turns(messages: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(messages, list) or not messages:
        raise UnusedRow("not_text")
    turns = []
    for message in messages:
        role, content = (message.get(name) if isinstance(message, Mapping) else None for name in ("role", "content"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise UnusedRow("not_text")
        turns.append((role, content))
    return tuple(turns)


def _prompt(value: Any) -> tuple[Prompt, str]:
    """The prompt, and the question in it."""
    if isinstance(value, str):
        return _not_empty(value), value
    turns = _turns(value)
    return turns, turns[-1][1]


def _reply(value: Any) -> str:
    if isinstance(value, str):
        return _not_empty(value)
    turns = _turns(value)
    if len(turns) != 1:
        raise UnusedRow("not_text")
    return _not_empty(turns[0][1])


def problem_key(question: str) -> str:
    """What solutions of one question share, in whichever corpus they lie: not case, not spacing."""
    return hashlib.blake2b(
        " ".join(question.lower().split()).encode("utf-8", "surrogatepass"), digest_size=12
    ).hexdigest()


def place(seed: int, example_id: str) -> int:
    """Where an example stands in the order of training: a hash, so that it depends on nothing else. 63 bits."""
    digest = hashlib.blake2b(f"{seed}\0{example_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


View = Callable[[Sequence[Lesson], int], tuple[list[Example], list[tuple[Lesson, str]]]]


def singles(*wanted: bool) -> View:
    """A view: each solution alone, of those that are right, or wrong, or both."""

    def view(lessons: Sequence[Lesson], seed: int) -> tuple[list[Example], list[tuple[Lesson, str]]]:
        used = [lesson for lesson in lessons if lesson.is_right in wanted]
        unused = [(lesson, "not_asked_for") for lesson in lessons if lesson.is_right not in wanted]
        return [Example(lesson.id, (lesson,)) for lesson in used], unused

    return view


def against(num_wrong: int) -> View:
    """A view: each right solution of a question against at most `num_wrong` of its wrong ones, chosen by the seed."""

    def view(lessons: Sequence[Lesson], seed: int) -> tuple[list[Example], list[tuple[Lesson, str]]]:
        rights = [lesson for lesson in lessons if lesson.is_right]
        wrongs = [lesson for lesson in lessons if not lesson.is_right]
        if not rights or not wrongs:
            return [], [(lesson, "no_partner") for lesson in lessons]
        examples = []
        for right in rights:
            ordered = sorted(wrongs, key=lambda wrong: place(seed, f"{right.id}\0{wrong.id}"))
            examples.append(Example(right.id, (right, *ordered[:num_wrong])))
        used = {lesson.id for example in examples for lesson in example.lessons}
        return examples, [(lesson, "not_asked_for") for lesson in wrongs if lesson.id not in used]

    return view
