"""Corpus formats: one input record -> a Chain or a Problem, or the reason why it cannot be read.

A record is a dict from JSON or Parquet. To add a format: a function in `chain_formats` or `problem_formats`, and an
entry in `FORMATS`, which names its default columns. The verbs that can read it and their help follow from the entry.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from algorithms import chain_formats, problem_formats
from algorithms.chains import Chain
from algorithms.graded import GradedSample, graded
from algorithms.problems import Problem
from algorithms.row_errors import RowError, check_encodable, kind

Columns: TypeAlias = Mapping[str, str]  # role of a column -> its name
Use: TypeAlias = Literal["refine", "sample", "grade", "rank"]
Item: TypeAlias = Chain | Problem | GradedSample


@dataclass(frozen=True, slots=True)
class Format:
    """How to read one kind of record.

    `description` is for `--help`, and `uses` says which verbs read it. `split` is the default of a format that splits a
    text into steps. The roles in `optional` may lack their column. A format that `keeps_columns` leaves all columns in
    `source`, because its item does not hold all their content; `kept` names the roles of which this is true.
    `source_column` is the column in which a record of ours carries the `source` of its row. `id_column` holds ids in
    most files of this format.
    """

    description: str
    uses: frozenset[Use]
    parse: Callable[[Mapping[str, Any], Columns, str], Item]
    columns: Columns
    optional: frozenset[str] = frozenset()
    split: str | None = None
    keeps_columns: bool = False
    item: type[Chain] | type[Problem] | type[GradedSample] = Chain
    kept: frozenset[str] = frozenset()
    source_column: str | None = None
    id_column: str | None = None


def parse_record(record: Any, format_name: str, columns: Columns, split: str | None) -> Item:
    """The item in a record. `columns` and `split` override the format's defaults. Raises RowError if there is none."""
    if not isinstance(record, Mapping):
        raise RowError("wrong_type", f"a row must be an object, got {kind(record)}")
    corpus_format = FORMATS[format_name]
    item = corpus_format.parse(record, {**corpus_format.columns, **columns}, split or corpus_format.split or "")
    steps = item.steps if isinstance(item, Chain) else ()
    if isinstance(item, Chain) and not any(step.strip() for step in steps):
        raise RowError("no_steps")
    for value in (item.question, item.answer, *steps):
        check_encodable(value or "")
    return item


def source_json(record: Mapping[str, Any], used: set[str]) -> str:
    """All columns but the used ones, as a JSON object. Values that JSON has no type for become text."""
    rest = {str(key): value for key, value in record.items() if key not in used}
    return json.dumps(rest, ensure_ascii=True, default=_json_text)


def _json_text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


CHAINS_WITH_GOLD: Final[frozenset[Use]] = frozenset({"refine", "sample"})  # their answer is a gold answer too

FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "steps": Format(
            "question, steps (a list), answer",
            CHAINS_WITH_GOLD,
            chain_formats.steps,
            {"question": "question", "steps": "steps", "answer": "answer"},
        ),
        "gsm8k": Format(
            "question, answer with a step in each line and the final answer in the last line, '#### n'",
            CHAINS_WITH_GOLD,
            chain_formats.gsm8k,
            {"question": "question", "solution": "answer"},
        ),
        "math": Format(
            "problem, solution whose final answer is its last \\boxed{}",
            CHAINS_WITH_GOLD,
            chain_formats.math,
            {"question": "problem", "solution": "solution"},
            split="sentence",
        ),
        "chat": Format(
            "messages; the steps are those of the last reply, or of its <think> part",
            frozenset({"refine"}),
            chain_formats.chat,
            {"messages": "messages"},
            split="paragraph",
            keeps_columns=True,
        ),
        "text": Format(
            "question, text and, if there is one, answer",
            frozenset({"refine"}),
            chain_formats.text_format,
            {"question": "question", "solution": "text", "answer": "answer"},
            frozenset({"answer"}),
            "newline",
        ),
        "questions": Format(
            "question and, if there is one, answer",
            frozenset({"sample"}),
            problem_formats.questions,
            {"question": "question", "answer": "answer"},
            frozenset({"answer"}),
            item=Problem,
        ),
        "tdg": Format(
            "the release of arXiv 2312.12832: question, answer with a \\boxed{}, generated_answer (a list)",
            frozenset({"grade"}),
            problem_formats.tdg,
            {"question": "question", "solution": "answer", "samples": "generated_answer"},
            item=Problem,
            kept=frozenset({"solution"}),
        ),
        "samples": Format(
            "question, answer, samples: a run of jobs.sample, or lists of texts",
            frozenset({"grade"}),
            problem_formats.samples,
            {"question": "question", "answer": "answer", "samples": "samples"},
            frozenset({"answer"}),
            item=Problem,
            source_column="source",
        ),
        "gsm8k-solutions": Format(
            "GSM8K's model solutions: question, ground_truth, and a column for each model",
            frozenset({"grade"}),
            problem_formats.gsm8k_solutions,
            {"question": "question", "solution": "ground_truth"},
            item=Problem,
            kept=frozenset({"solution"}),
        ),
        "lm-eval": Format(
            "sample logs of lm-evaluation-harness: doc, target, resps",
            frozenset({"grade"}),
            problem_formats.lm_eval,
            {"doc": "doc", "target": "target", "samples": "resps"},
            frozenset({"doc"}),
            item=Problem,
            kept=frozenset({"doc", "target"}),
            id_column="doc_hash",
        ),
        "graded": Format(
            "a run of jobs.grade",
            frozenset({"rank"}),
            graded,
            {"question": "question", "status": "status"},
            item=GradedSample,
            source_column="source",
        ),
    }
)


def formats_for(use: Use) -> dict[str, Format]:
    """The formats that a verb can read, by name."""
    return {name: each for name, each in FORMATS.items() if use in each.uses}
