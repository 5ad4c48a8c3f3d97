"""Rows of solutions -> lessons, and lessons -> the examples that a method trains on.

A lesson is one solution of a question, right or wrong. An example is what must be in one batch together: one solution,
a pair for ORPO, or a right solution with wrong ones for contrastive learning.

Rows may be records of `jobs.grade` (right, wrong) or `jobs.refine` (refined), exports of `jobs.export`, and any rows
with prompt and completion, with messages, or with prompt, chosen and rejected. A rejected text, such as the original of
a refined one, is worse but not wrong: it is not a lesson of its own, only the partner of a right one. Knows nothing
about tokens.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from algorithms.chains import recorded_chain, solution_text
from algorithms.row_errors import REASONS, RowError
from algorithms.sampling import Prompt
from algorithms.splits import plain_question

# Why a row, or one of its solutions, is not trained on.
UNUSED: Final = MappingProxyType(
    {
        **{name: REASONS[name] for name in ("invalid_json", "invalid_utf8")},
        "no_object": "the row is JSON, but not an object with columns",
        "no_columns": "the row has none of the known sets of columns",
        "not_text": "a column that must hold text or messages holds something else",
        "empty": "the prompt or the solution is empty",
        "quarantined": "the row was quarantined by the job that wrote it",
        "not_graded": "it is unknown whether the solution is right",
        "held_out": "the problem is held out",
        "not_asked_for": "the method does not train on solutions of this kind (right, wrong, or without a pair)",
        "no_partner": "the question has no right or no wrong solution to compare with",
        "too_long": "the prompt and the solution have more tokens than --max-tokens",
        "template": "the model's chat template rejects the conversation",
    }
)
TRAINED_SPLITS: Final = ("train", "validation")


class UnusedRow(ValueError):
    """A row without a lesson. The reason is a key of UNUSED."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One solution of a question. If `prompt` is None, a prompt style makes the prompt from `question`.

    `rejected` is a solution that this one is better than. `is_cut` marks a text that reached its maximum length.
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
    """Lessons that must be in one batch together, the right one first."""

    id: str
    lessons: tuple[Lesson, ...]


def read_lessons(record: Any, row_id: str) -> list[Lesson]:
    """The lessons of a raw record. Raises UnusedRow if there are none."""
    if isinstance(record, RowError):
        raise UnusedRow(record.reason)
    if not isinstance(record, Mapping):
        raise UnusedRow("no_object")
    for columns, read in READERS:
        if all(name in record for name in columns):
            return read(record, record_id(record, row_id))
    raise UnusedRow("no_columns")


def record_id(record: Any, row_id: str) -> str:
    """A record's own id, or its position."""
    own = str((record.get("id") if isinstance(record, Mapping) else None) or row_id)
    try:
        return _valid_text(own)
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
    question, _ = _text(record, "question"), _text(record, "answer")
    refined, original = (_solution(record, refined=refined) for refined in (True, False))
    rejected = original if record["status"] == "refined" else None
    return [Lesson(row_id, question, None, refined, True, rejected=rejected)]


def _solution(record: Mapping[str, Any], *, refined: bool) -> str:
    name = "refined_steps" if refined else "steps"
    if not isinstance(record[name], list) or not isinstance(record["joiner"], str):
        raise UnusedRow("not_text")
    chain = recorded_chain(record, refined=refined)
    if not all(isinstance(each, str) for each in [*chain.steps, *chain.separators]):
        raise UnusedRow("not_text")
    return _valid_text(solution_text(chain))


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
    return [Lesson(row_id, _all_text(prompt), prompt, _valid_text(messages[-1][1]), True)]


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
    return _valid_text(record[name])


def _valid_text(text: str) -> str:
    if not text.strip():
        raise UnusedRow("empty")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can hold it, Arrow cannot
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
    _all_text(turns)
    return tuple(turns)


def _all_text(turns: Sequence[tuple[str, str]]) -> str:
    """All messages as one text. Two conversations ask the same question only if all their messages are equal."""
    return _valid_text("\n".join(content for _, content in turns))


def _prompt(value: Any) -> tuple[Prompt, str]:
    """The prompt, and the question in it."""
    if isinstance(value, str):
        return _valid_text(value), value
    turns = _turns(value)
    return turns, _all_text(turns)


def _reply(value: Any) -> str:
    if isinstance(value, str):
        return _valid_text(value)
    turns = _turns(value)
    if len(turns) != 1:
        raise UnusedRow("not_text")
    return _valid_text(turns[0][1])


def problem_key(question: str) -> str:
    """A key that all solutions of a question share, in any corpus. It ignores case and spacing."""
    return hashlib.blake2b(plain_question(question).encode(), digest_size=12).hexdigest()


def place(seed: int, example_id: str) -> int:
    """The position of an example in the order of training: a 63-bit hash of seed and id."""
    digest = hashlib.blake2b(f"{seed}\0{example_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


View = Callable[[Sequence[Lesson], int], tuple[list[Example], list[tuple[Lesson, str]]]]


def one_per_sample(*wanted: bool) -> View:
    """A view with one example for each solution that is right, wrong, or either, as `wanted` says."""

    def view(lessons: Sequence[Lesson], seed: int) -> tuple[list[Example], list[tuple[Lesson, str]]]:
        used = [lesson for lesson in lessons if lesson.is_right in wanted]
        unused = [(lesson, "not_asked_for") for lesson in lessons if lesson.is_right not in wanted]
        return [Example(lesson.id, (lesson,)) for lesson in used], unused

    return view


def contrasted(num_wrong: int, *, use_rejected: bool = False) -> View:
    """A view that sets each right solution against at most `num_wrong` wrong ones of its question, chosen by the seed.

    With `use_rejected`, a solution with its own rejected text is set against that text only.
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
