"""Corpora of worked solutions: one record -> a Chain."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from algorithms.answers.extraction import last_boxed
from algorithms.chains import Chain
from algorithms.row_errors import RowError, field, kind, not_text, text
from algorithms.segmentation import split_steps

Columns = Mapping[str, str]  # role -> column name


def steps(record: Mapping[str, Any], columns: Columns, split: str) -> Chain:
    """A solution given as a list of steps."""
    values = field(record, columns["steps"])
    if not isinstance(values, list | tuple):
        raise RowError("wrong_type", f"column {columns['steps']!r} must be a list, got {kind(values)}")
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise not_text(f"step {number} of column {columns['steps']!r}", value)
    question = text(record, columns["question"])
    return Chain(question, tuple(values), text(record, columns["answer"]))


def gsm8k(record: Mapping[str, Any], columns: Columns, split: str) -> Chain:
    """GSM8K: each line is a step, without `<<...>>`. The last line, `#### n`, states the answer."""
    solution = re.sub(r"<<[^<>]*>>", "", text(record, columns["solution"]))
    lines = re.split(r"\s*\n\s*", solution.strip())
    final = re.fullmatch(r"####\s*(.+)", lines[-1])
    if final is None:
        raise RowError("no_answer", "the last line must be '#### n'")
    return Chain(text(record, columns["question"]), tuple(lines), final[1].strip())


def math(record: Mapping[str, Any], columns: Columns, split: str) -> Chain:
    r"""A solution whose answer is its last `\boxed{}`."""
    solution = text(record, columns["solution"])
    answer = last_boxed(solution)
    if answer is None:
        raise RowError("no_answer", r"the solution has no \boxed{}")
    return _split_chain(text(record, columns["question"]), solution, split, answer)


def text_format(record: Mapping[str, Any], columns: Columns, split: str) -> Chain:
    """One rationale, with an optional answer."""
    name = columns["answer"]
    answer = text(record, name) if record.get(name) is not None else ""
    return _split_chain(text(record, columns["question"]), text(record, columns["solution"]), split, answer)


def chat(record: Mapping[str, Any], columns: Columns, split: str) -> Chain:
    """A conversation. The last message, from the assistant, is the solution; the earlier messages are the question.

    The steps are the reasoning in <think> tags or in `reasoning_content`, and the text after it is the answer.
    Without such reasoning, the steps are the whole message, and the answer is its last `\\boxed{}`, if any.
    """
    name = columns["messages"]
    *turns, (role, reply) = chat_turns(field(record, name), f"column {name!r}")
    if role != "assistant":
        raise RowError("no_steps", f"the last message of column {name!r} is not from the assistant")
    question = "\n\n".join(content for _, content in turns)
    if not question.strip():
        raise RowError("empty_field", f"column {name!r} has no text before the assistant's last message")
    thought = THOUGHT.fullmatch(reply)
    answer = thought[2].strip() if thought else last_boxed(reply) or ""
    return _split_chain(question, thought[1] if thought else reply, split, answer)


def _split_chain(question: str, rationale: str, split: str, answer: str) -> Chain:
    """The chain of a rationale. Its separators are left out if they are all alike."""
    steps, separators = split_steps(rationale, split)
    joiner = {"sentence": " ", "paragraph": "\n\n"}.get(split, "\n")
    return Chain(question, steps, answer, joiner, separators if set(separators) - {joiner} else ())


THOUGHT: Final = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
ROLES: Final = MappingProxyType({"human": "user", "gpt": "assistant"})


def chat_turns(messages: Any, where: str) -> list[tuple[str, str]]:
    """Messages as (role, content), with OpenAI's role names. `reasoning_content` becomes <think> tags.

    Accepts the keys role/content or from/value, and content as text or a list of text parts. Raises RowError for
    anything else.
    """
    if not isinstance(messages, list | tuple) or not all(isinstance(message, Mapping) for message in messages):
        raise RowError("wrong_type", f"{where} must be a list of messages")
    if not messages:
        raise RowError("no_steps", f"{where} has no messages")
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
            raise not_text(f"a message of {where}", content if isinstance(role, str) else role)
        turns.append((ROLES.get(role, role), content))
    return turns


def with_reasoning(reply: str, reasoning: str) -> str:
    """An assistant's reply with its reasoning replaced."""
    thought = THOUGHT.fullmatch(reply)
    if not thought:
        return reasoning
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{thought[2].strip()}"
