"""Rows of solutions -> lessons, and lessons -> the examples a method trains on.

A lesson is one solution of a question, right or wrong. An example is what must lie in one batch together: one
solution, a pair for ORPO, a right solution among wrong ones for contrastive learning.

Rows may be records of `jobs.grade` (right, wrong), of `jobs.refine` (refined), exports of `jobs.export` and any
other rows with prompt and completion, messages, or prompt, chosen and rejected. A rejected text, as the original of a
refined one, is less good and not wrong: it is no lesson of its own, but the partner that a right one brings. Knows no
tokens.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from algorithms.chains import Chain, answer_step
from algorithms.row_errors import REASONS, RowError
from algorithms.sampling import Prompt
from algorithms.splits import plain_question

# Why a row, or a solution of it, is not trained on.
UNUSED: Final = MappingProxyType(
    {
        **{name: REASONS[name] for name in ("invalid_json", "invalid_utf8")},
        "no_object": "the row is JSON, but no object with columns",
        "no_columns": "the row has none of the sets of columns that are understood",
        "not_text": "a column that must hold text, or messages, does not",
        "empty": "the prompt or the solution is empty",
        "quarantined": "the row was quarantined by the job that wrote it",
        "not_graded": "whether the solution is right is not known",
        "held_out": "the problem is held out",
        "not_asked_for": "the method trains on right ones, or wrong ones, or pairs, and this is another",
        "no_partner": "the question has no right solution, or no wrong one, to set against it",
        "too_long": "the prompt and the solution have more tokens than --max-tokens",
        "template": "the model's chat template refuses the conversation",
    }
)
TRAINED_SPLITS: Final = ("train", "validation")


class UnusedRow(ValueError):
    """A row without a lesson; the reason is a key of UNUSED."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One solution of a question. `prompt` is None where only the `question` is given, and a style makes it one.

    `rejected` is a solution that this one is better than. A text that `is_cut` was not ended by who wrote it.
    """

    id: str
    question: str
    prompt: Prompt | None
    text: str
    is_right: bool
    split: str = "train"
    rejected: str | None = None
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """Lessons that must lie in one batch together, the right one first."""

    id: str
    lessons: tuple[Lesson, ...]


def read_lessons(record: Any, row_id: str) -> list[Lesson]:
    """The lessons of a row, as `Corpus.records` gives it. Raises UnusedRow."""
    if isinstance(record, RowError):
        raise UnusedRow(record.reason)
    if not isinstance(record, Mapping):
        raise UnusedRow("no_object")
    for columns, read in READERS:
        if all(name in record for name in columns):
            return read(record, record_id(record, row_id))
    raise UnusedRow("no_columns")


def record_id(record: Any, row_id: str) -> str:
    """A record's own id, or else where it stands."""
    own = str((record.get("id") if isinstance(record, Mapping) else None) or row_id)
    try:
        return _sound(own)
    except UnusedRow:
        return row_id


def _graded(record: Mapping[str, Any], row_id: str) -> list[Lesson]:
    if record["status"] == "quarantined":
        raise UnusedRow("quarantined")
    if not isinstance(record["correct"], bool):
        raise UnusedRow("not_graded")
    split = record.get("split") or "train"
    if split not in TRAINED_SPLITS:
        raise UnusedRow("held_out")
    question, text = _text(record, "question"), _text(record, "rationale")
    is_cut = record.get("finish_reason") == "length"
    return [Lesson(row_id, question, None, text, record["correct"], split, is_cut=is_cut)]


def _refined(record: Mapping[str, Any], row_id: str) -> list[Lesson]:
    if record["status"] == "quarantined":
        raise UnusedRow("quarantined")
    question, answer = _text(record, "question"), _text(record, "answer")
    refined, original = (_solution(record, name, answer) for name in ("refined_steps", "steps"))
    rejected = original if record["status"] == "refined" else None
    return [Lesson(row_id, question, None, refined, True, rejected=rejected)]


def _solution(record: Mapping[str, Any], name: str, answer: str) -> str:
    steps, joiner = record[name], record["joiner"]
    if not isinstance(steps, list) or not all(isinstance(each, str) for each in [*steps, joiner]):
        raise UnusedRow("not_text")
    is_stated = answer_step(Chain(record["question"], tuple(steps), answer)) is not None
    return _sound(joiner.join(steps if is_stated else [*steps, answer]))


def _preference(record: Mapping[str, Any], row_id: str) -> list[Lesson]:
    prompt, question = _prompt(record["prompt"])
    return [Lesson(row_id, question, prompt, _reply(record["chosen"]), True, rejected=_reply(record["rejected"]))]


def _completion(record: Mapping[str, Any], row_id: str) -> list[Lesson]:
    prompt, question = _prompt(record["prompt"])
    return [Lesson(row_id, question, prompt, _reply(record["completion"]), True)]


def _messages(record: Mapping[str, Any], row_id: str) -> list[Lesson]:
    messages = _turns(record["messages"])
    if len(messages) < 2 or messages[-1][0] != "assistant":
        raise UnusedRow("not_text")
    prompt = messages[:-1]
    return [Lesson(row_id, _said(prompt), prompt, _sound(messages[-1][1]), True)]


READERS: Final[tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any], str], list[Lesson]]], ...]] = (
    (("question", "rationale", "correct", "status"), _graded),
    (("question", "steps", "refined_steps", "answer", "joiner", "status"), _refined),
    (("prompt", "chosen", "rejected"), _preference),
    (("prompt", "completion"), _completion),
    (("messages",), _messages),
)


def _text(record: Mapping[str, Any], name: str) -> str:
    if not isinstance(record[name], str):
        raise UnusedRow("not_text")
    return _sound(record[name])


def _sound(text: str) -> str:
    if not text.strip():
        raise UnusedRow("empty")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and Arrow cannot
        raise UnusedRow("not_text") from None
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
    _said(turns)
    return tuple(turns)


def _said(turns: Sequence[tuple[str, str]]) -> str:
    """All that was said: two conversations are about the same question only if all of it is the same."""
    return _sound("\n".join(content for _, content in turns))


def _prompt(value: Any) -> tuple[Prompt, str]:
    """The prompt, and the question in it."""
    if isinstance(value, str):
        return _sound(value), value
    turns = _turns(value)
    return turns, _said(turns)


def _reply(value: Any) -> str:
    if isinstance(value, str):
        return _sound(value)
    turns = _turns(value)
    if len(turns) != 1:
        raise UnusedRow("not_text")
    return _sound(turns[0][1])


def problem_key(question: str) -> str:
    """What solutions of one question share, in whichever corpus they lie: not case, not spacing."""
    return hashlib.blake2b(plain_question(question).encode(), digest_size=12).hexdigest()


def place(seed: int, example_id: str) -> int:
    """Where an example stands in the order of training: a hash, so that it depends on nothing else. 63 bits."""
    digest = hashlib.blake2b(f"{seed}\0{example_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


View = Callable[[Sequence[Lesson], int], tuple[list[Example], list[tuple[Lesson, str]]]]


def singles(*wanted: bool) -> View:
    """A view: each solution alone, of those that are right, or wrong, or both."""

    def view(lessons: Sequence[Lesson], seed: int) -> tuple[list[Example], list[tuple[Lesson, str]]]:
        used = [lesson for lesson in lessons if lesson.is_right in wanted]
        unused = [(lesson, "not_asked_for") for lesson in lessons if lesson.is_right not in wanted]
        return [Example(lesson.id, (lesson,)) for lesson in used], unused

    return view


def against(num_wrong: int, *, use_rejected: bool = False) -> View:
    """A view: each right solution of a question against at most `num_wrong` of its wrong ones, chosen by the seed.

    With `use_rejected`, one that brings its own rejected solution stands against that alone.
    """

    def view(lessons: Sequence[Lesson], seed: int) -> tuple[list[Example], list[tuple[Lesson, str]]]:
        wrongs = [lesson for lesson in lessons if not lesson.is_right]
        examples, unused = [], []
        for right in lessons:
            if not right.is_right:
                continue
            ordered = sorted(wrongs, key=lambda wrong: place(seed, f"{right.id}\0{wrong.id}"))[:num_wrong]
            if use_rejected and right.rejected is not None:
                ordered = [replace(right, id=f"{right.id}#rejected", text=right.rejected, is_right=False)]
            if ordered:
                examples.append(Example(right.id, (right, *ordered)))
            else:
                unused.append((right, "no_partner"))
        used = {lesson.id for example in examples for lesson in example.lessons}
        reason = "not_asked_for" if examples else "no_partner"
        return examples, unused + [(wrong, reason) for wrong in wrongs if wrong.id not in used]

    return view
