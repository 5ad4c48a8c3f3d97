"""Corpus formats: one input record -> a Chain, or the reason why it is none.

A record is a dict as JSON or Parquet gives it. A format is one function and one entry in `FORMATS`, which
also names the columns it reads by default.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from algorithms.chains import Chain, split_steps

FormatName: TypeAlias = Literal["steps", "gsm8k", "math", "chat", "text"]
Columns: TypeAlias = Mapping[str, str]  # role -> column name

# Why a row can be quarantined. `reason` in a record is one of these, then ": " and detail.
REASONS: Final = MappingProxyType(
    {
        "invalid_json": "the line is not JSON",
        "invalid_utf8": "the bytes are not UTF-8",
        "invalid_unicode": "the text holds half a surrogate pair and cannot be encoded",
        "missing_field": "a column that the format needs is not there",
        "null_field": "a column that the format needs is null",
        "wrong_type": "a value is not of the type that the format needs",
        "empty_field": "a text that the format needs is empty",
        "no_steps": "the solution holds no step",
        "no_answer": "the solution does not state its answer the way the format says",
        "duplicate_id": "an earlier row has the same id",
        "too_long": "the row does not fit the model's context window",
        "nothing_to_score": "no token of the row lies in the scope",
        "out_of_memory": "the row does not fit into memory, even alone",
        "not_finite": "the model gives the row no finite perplexity",
        "kills_the_process": "the process that refines the row dies of it",
    }
)


class RowError(Exception):
    """A row that cannot be refined. `reason` is a key of REASONS; the row is quarantined with it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # both in args: the error survives pickling
        assert reason in REASONS, reason
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True, slots=True)
class Format:
    """How to read one kind of record. `split` is the default where the format cuts a text into steps."""

    parse: Callable[[Mapping[str, Any], Columns, str], Chain]
    columns: Columns
    optional: frozenset[str] = frozenset()
    split: str | None = None
    keeps_columns: bool = False  # the chain does not hold all that its columns do


def parse_record(record: Any, format_name: str, columns: Columns, split: str | None) -> Chain:
    """The chain of a record. `columns` and `split` override the format's defaults.

    Raises RowError with the reason when the record is none.
    """
    if not isinstance(record, Mapping):
        raise RowError("wrong_type", f"a row must be an object, got {_kind(record)}")
    corpus_format = FORMATS[format_name]
    chain = corpus_format.parse(record, {**corpus_format.columns, **columns}, split or corpus_format.split or "")
    if not any(step.strip() for step in chain.steps):
        raise RowError("no_steps")
    for text in (chain.question, chain.answer, *chain.steps):
        _check_encodable(text)
    return chain


def source_json(record: Mapping[str, Any], used: set[str]) -> str:
    """All columns but the used ones, as a JSON object; values JSON has no type for become text."""
    rest = {str(key): value for key, value in record.items() if key not in used}
    return json.dumps(rest, ensure_ascii=True, default=_json_text)


def _json_text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _steps(record: Mapping[str, Any], columns: Columns, split: str) -> Chain:
    values = _field(record, columns["steps"])
    if not isinstance(values, list | tuple):
        raise RowError("wrong_type", f"column {columns['steps']!r} must be a list, got {_kind(values)}")
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise _not_text(f"step {number} of column {columns['steps']!r}", value)
    question = _text(record, columns["question"])
    return Chain(question, tuple(values), _text(record, columns["answer"]))


def _gsm8k(record: Mapping[str, Any], columns: Columns, split: str) -> Chain:
    """Each line is a step, `<<...>>` removed; the last line `#### n` states the answer (GSM8K's release)."""
    solution = re.sub(r"<<[^<>]*>>", "", _text(record, columns["solution"]))
    lines = tuple(line.strip() for line in solution.split("\n") if line.strip())
    final = re.fullmatch(r"####\s*(.+)", lines[-1]) if lines else None
    if final is None:
        raise RowError("no_answer", "the last line must be '#### n'")
    return Chain(_text(record, columns["question"]), lines, final[1].strip())


def _math(record: Mapping[str, Any], columns: Columns, split: str) -> Chain:
    solution = _text(record, columns["solution"])
    answer = last_boxed(solution)
    if answer is None:
        raise RowError("no_answer", r"the solution has no \boxed{}")
    steps, joiner = split_steps(solution, split)
    return Chain(_text(record, columns["question"]), steps, answer, joiner)


def _text_format(record: Mapping[str, Any], columns: Columns, split: str) -> Chain:
    steps, joiner = split_steps(_text(record, columns["solution"]), split)
    name = columns["answer"]
    answer = _text(record, name) if record.get(name) is not None else ""
    return Chain(_text(record, columns["question"]), steps, answer, joiner)


def _chat(record: Mapping[str, Any], columns: Columns, split: str) -> Chain:
    """The last assistant message is the solution; every message before it is the question.

    Reasoning between <think> tags, or in `reasoning_content`, is what is refined; the text behind it is the
    answer. Without either the whole message is refined and the answer is its last `\\boxed{}`, if any.
    """
    name = columns["messages"]
    *turns, (role, reply) = chat_turns(_field(record, name), f"column {name!r}")
    if role != "assistant":
        raise RowError("no_steps", f"the last message of column {name!r} is not the assistant's")
    question = "\n\n".join(content for _, content in turns)
    if not question.strip():
        raise RowError("empty_field", f"column {name!r} has no message before the assistant's")
    thought = THOUGHT.fullmatch(reply)
    steps, joiner = split_steps(thought[1] if thought else reply, split)
    answer = thought[2].strip() if thought else last_boxed(reply) or ""
    return Chain(question, steps, answer, joiner)


THOUGHT: Final = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
ROLES: Final = MappingProxyType({"human": "user", "gpt": "assistant"})


def chat_turns(messages: Any, where: str) -> list[tuple[str, str]]:
    """Messages as (role, content), in OpenAI's names; `reasoning_content` becomes <think> tags.

    Reads role/content and from/value, texts and lists of text parts. Raises RowError for anything else.
    """
    if not isinstance(messages, list | tuple) or not all(isinstance(message, Mapping) for message in messages):
        raise RowError("wrong_type", f"{where} must be a list of messages")
    if not messages:
        raise RowError("no_steps", f"{where} has no message")
    turns = []
    for message in messages:
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        reasoning = message.get("reasoning_content")
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
        if isinstance(reasoning, str) and reasoning.strip():
            content = with_reasoning("<think></think>" + (content or ""), reasoning)
        if not isinstance(content, str) or not isinstance(role, str):
            raise _not_text(f"a message of {where}", content if isinstance(role, str) else role)
        turns.append((ROLES.get(role, role), content))
    return turns


def with_reasoning(reply: str, reasoning: str) -> str:
    """An assistant's reply with other reasoning in the place of its own."""
    thought = THOUGHT.fullmatch(reply)
    if not thought:
        return reasoning
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{thought[2].strip()}"


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "steps": Format(_steps, {"question": "question", "steps": "steps", "answer": "answer"}),
        "gsm8k": Format(_gsm8k, {"question": "question", "solution": "answer"}),
        "math": Format(_math, {"question": "problem", "solution": "solution"}, split="sentence"),
        "chat": Format(_chat, {"messages": "messages"}, split="paragraph", keeps_columns=True),
        "text": Format(
            _text_format,
            {"question": "question", "solution": "text", "answer": "answer"},
            frozenset({"answer"}),
            "newline",
        ),
    }
)


def last_boxed(text: str) -> str | None:
    """What the last `\\boxed{}` holds, braces balanced; also `\\boxed 2`. None if there is none."""
    start = text.rfind(r"\boxed")
    if start < 0:
        return None
    rest = text[start + len(r"\boxed") :]
    if not rest.lstrip().startswith("{"):
        bare = re.match(r"\s+([^\s$]+)", rest)
        return bare[1] if bare else None
    depth, opened = 0, rest.index("{")
    for position in range(opened, len(rest)):
        depth += {"{": 1, "}": -1}.get(rest[position], 0)
        if depth == 0:
            return rest[opened + 1 : position].strip() or None
    return None


def _field(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise RowError("missing_field", f"column {name!r}")
    value = record[name]
    if value is None:
        raise RowError("null_field", f"column {name!r}")
    return value


def _text(record: Mapping[str, Any], name: str) -> str:
    value = _field(record, name)
    if not isinstance(value, str):
        raise _not_text(f"column {name!r}", value)
    if not value.strip():
        raise RowError("empty_field", f"column {name!r}")
    return value.strip()


def _not_text(where: str, value: Any) -> RowError:
    if value is None:
        return RowError("null_field", where)
    if isinstance(value, bytes):  # the reader leaves bytes where it could not decode
        return RowError("invalid_utf8", where)
    return RowError("wrong_type", f"{where} must be text, got {_kind(value)}")


def _kind(value: Any) -> str:
    return {"dict": "an object", "list": "a list", "NoneType": "null"}.get(
        type(value).__name__, f"a value of type {type(value).__name__}"
    )


def _check_encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("invalid_unicode", f"character {error.start} of {text[:20]!r}...") from None
