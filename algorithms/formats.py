"""Corpus formats: one input record -> a Chain or a Problem, or the reason why it is none.

A record is a dict as JSON or Parquet gives it. A format is one function and one entry in `FORMATS`, which
also names the columns it reads by default.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from algorithms import chain_formats, problem_formats
from algorithms.chains import Chain
from algorithms.problems import Problem
from algorithms.row_errors import RowError, check_encodable, kind

Columns: TypeAlias = Mapping[str, str]  # role -> column name


@dataclass(frozen=True, slots=True)
class Format:
    """How to read one kind of record. `split` is the default where the format cuts a text into steps."""

    parse: Callable[[Mapping[str, Any], Columns, str], Chain | Problem]
    columns: Columns
    optional: frozenset[str] = frozenset()
    split: str | None = None
    keeps_columns: bool = False  # the item does not hold all that its columns do
    item: type[Chain] | type[Problem] = Chain
    kept: frozenset[str] = frozenset()  # roles whose columns the item holds in part only: the source keeps them
    source_column: str | None = None  # holds what `source_json` made of an earlier job's row


def parse_record(record: Any, format_name: str, columns: Columns, split: str | None) -> Chain | Problem:
    """The item of a record. `columns` and `split` override the format's defaults.

    Raises RowError with the reason when the record is none.
    """
    if not isinstance(record, Mapping):
        raise RowError("wrong_type", f"a row must be an object, got {kind(record)}")
    corpus_format = FORMATS[format_name]
    item = corpus_format.parse(record, {**corpus_format.columns, **columns}, split or corpus_format.split or "")
    steps = item.steps if isinstance(item, Chain) else ()
    if isinstance(item, Chain) and not any(step.strip() for step in steps):
        raise RowError("no_steps")
    for value in (item.question, item.answer, *steps):
        check_encodable(value)
    return item


def source_json(record: Mapping[str, Any], used: set[str]) -> str:
    """All columns but the used ones, as a JSON object; values JSON has no type for become text."""
    rest = {str(key): value for key, value in record.items() if key not in used}
    return json.dumps(rest, ensure_ascii=True, default=_json_text)


def _json_text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "steps": Format(chain_formats.steps, {"question": "question", "steps": "steps", "answer": "answer"}),
        "gsm8k": Format(chain_formats.gsm8k, {"question": "question", "solution": "answer"}),
        "math": Format(chain_formats.math, {"question": "problem", "solution": "solution"}, split="sentence"),
        "chat": Format(chain_formats.chat, {"messages": "messages"}, split="paragraph", keeps_columns=True),
        "text": Format(
            chain_formats.text_format,
            {"question": "question", "solution": "text", "answer": "answer"},
            frozenset({"answer"}),
            "newline",
        ),
        "questions": Format(
            problem_formats.questions, {"question": "question", "answer": "answer"}, frozenset({"answer"}), item=Problem
        ),
        "tdg": Format(
            problem_formats.tdg,
            {"question": "question", "solution": "answer", "samples": "generated_answer"},
            item=Problem,
            kept=frozenset({"solution"}),
        ),
        "samples": Format(
            problem_formats.samples,
            {"question": "question", "answer": "answer", "samples": "samples"},
            frozenset({"answer"}),
            item=Problem,
            source_column="source",
        ),
        "gsm8k-solutions": Format(
            problem_formats.gsm8k_solutions,
            {"question": "question", "solution": "ground_truth"},
            item=Problem,
            kept=frozenset({"solution"}),
        ),
    }
)
