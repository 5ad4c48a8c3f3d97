"""Corpora of questions, with or without sampled solutions: one record -> a Problem.

Prompt templates are removed. In the data of arXiv 2312.12832, the GPT-3.5 questions start with "Problem:", and
samples start with "Solution:" or "Let's think step by step".
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from algorithms.answers.extraction import extract, is_number, last_boxed
from algorithms.problems import SAMPLE_FACTS, GivenSample, Problem
from algorithms.row_errors import RowError, field, kind, not_text, text

QUESTION_TEMPLATE: Final = re.compile(r"^\s*(?:Problem|Question|Q):\s*", re.IGNORECASE)
LM_EVAL_QUESTIONS: Final = ("question", "problem", "query", "input", "prompt")
LM_EVAL_VERDICTS: Final = ("exact_match", "acc", "math_verify")
SAMPLE_TEMPLATE: Final = re.compile(
    r"^\s*(?:(?:Solution|Answer|A):\s*\n\s*|(?:Solution):\s*|Let'?s think step by step[.:]?\s*)+", re.IGNORECASE
)


def questions(record: Mapping[str, Any], columns: Mapping[str, str], split: str) -> Problem:
    """Questions to answer. The gold answer is optional: the text or number in its column."""
    answer = record.get(columns["answer"])
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = format(Decimal(repr(answer)), "f") if math.isfinite(answer) else ""  # tables store null as NaN
    if answer is not None and not isinstance(answer, str):
        raise not_text(f"column {columns['answer']!r}", answer)
    return Problem(text(record, columns["question"]), (answer or "").strip())


def tdg(record: Mapping[str, Any], columns: Mapping[str, str], split: str) -> Problem:
    """MATH problems with a teacher's samples, as released with arXiv 2312.12832."""
    question = QUESTION_TEMPLATE.sub("", text(record, columns["question"]))
    gold = last_boxed(text(record, columns["solution"])) or ""
    return Problem(question, gold, _given_samples(record, columns["samples"]))


def samples(record: Mapping[str, Any], columns: Mapping[str, str], split: str) -> Problem:
    """Records of `jobs.sample`, or any rows with a question, an answer and a list of samples.

    A sample is a text, or an object with `text` and optionally num_tokens, finish_reason and mean_logprob.
    """
    if record.get("status") == "quarantined":
        raise RowError("not_sampled", str(record.get("reason") or ""))
    problem = questions(record, columns, split)
    gold = problem.answer
    return Problem(problem.question, gold, _given_samples(record, columns["samples"]), last_number=is_number(gold))


def gsm8k_solutions(record: Mapping[str, Any], columns: Mapping[str, str], split: str) -> Problem:
    """The model solutions released with GSM8K: one column per model, with `solution` and `is_correct`."""
    found = []
    for name, value in record.items():
        if not isinstance(value, Mapping) or "solution" not in value:
            continue
        given = value.get("is_correct")
        sample = _given_sample(value["solution"], f"{name}.solution")
        found.append(
            GivenSample(
                None if sample.text is None else re.sub(r"<<[^<>]*>>", "", sample.text),
                sample.fault,
                origin=str(name),
                given_correct=given if isinstance(given, bool) else None,
            )
        )
    if not found:
        raise RowError("no_samples", "no column holds an object with 'solution'")
    gold = extract(text(record, columns["solution"]), last_number=True)
    question = text(record, columns["question"])
    return Problem(question, gold.answer if gold else "", tuple(found), last_number=True)


def lm_eval(record: Mapping[str, Any], columns: Mapping[str, str], split: str) -> Problem:
    """Sample logs of lm-evaluation-harness (`--log_samples`): doc, target, arguments, resps.

    The question is that of `doc`, under its usual names, or else the whole prompt. The harness's own verdict is the
    label of a single response. A task with several filters logs each doc once for each filter, with the same responses.
    The id in `doc_hash` makes all but the first of them duplicates.
    """
    doc = record.get(columns["doc"])
    name = next(
        (each for each in LM_EVAL_QUESTIONS if isinstance(doc, Mapping) and isinstance(doc.get(each), str)), None
    )
    question = doc[name] if isinstance(doc, Mapping) and name is not None else _lm_eval_prompt(record.get("arguments"))
    target = record.get(columns["target"])
    if isinstance(target, int | float) and not isinstance(target, bool):
        target = str(target)
    if not isinstance(target, str):
        raise not_text(f"column {columns['target']!r}", target)
    responses = field(record, columns["samples"])
    if isinstance(responses, list) and len(responses) == 1 and isinstance(responses[0], list):
        responses = responses[0]  # one request, all its repeats
    found = extract(target, last_number=True) if "####" in target or "\\boxed" in target else None
    gold = found.answer if found else target.strip()
    given = _given_samples({columns["samples"]: responses}, columns["samples"])
    if len(given) == 1:
        given = (replace(given[0], given_correct=_lm_eval_verdict(record)),)
    return Problem(text({"question": question}, "question"), gold, given, last_number=is_number(gold))


def _lm_eval_prompt(arguments: Any) -> Any:
    """The prompt of the first request, in the newer or the older form of the log."""
    if isinstance(arguments, Mapping):
        first = arguments.get("gen_args_0")
        return first.get("arg_0") if isinstance(first, Mapping) else None
    if isinstance(arguments, list) and arguments and isinstance(arguments[0], list) and arguments[0]:
        return arguments[0][0]
    return None


def _lm_eval_verdict(record: Mapping[str, Any]) -> bool | None:
    verdict = next((record[name] for name in LM_EVAL_VERDICTS if isinstance(record.get(name), int | float)), None)
    return None if verdict is None else bool(verdict)


def _given_samples(record: Mapping[str, Any], name: str) -> tuple[GivenSample, ...]:
    values = field(record, name)
    if not isinstance(values, list | tuple):
        raise RowError("wrong_type", f"column {name!r} must be a list, got {kind(values)}")
    if not values:
        raise RowError("no_samples", f"column {name!r} is empty")
    return tuple(_given_sample(value, f"sample {index} of column {name!r}") for index, value in enumerate(values))


def _given_sample(value: Any, where: str) -> GivenSample:
    known: Mapping[str, Any] = {}
    if isinstance(value, Mapping) and "text" in value:
        known, value = value, value["text"]
    if not isinstance(value, str):
        return GivenSample(None, str(not_text(where, value)))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return GivenSample(None, str(RowError("invalid_unicode", f"character {error.start} of {where}")))
    return GivenSample(
        SAMPLE_TEMPLATE.sub("", value).strip(),
        **{name: _value_of_type(known, name, kind_of) for name, kind_of in SAMPLE_FACTS.items()},
    )


def _value_of_type(values: Mapping[str, Any], name: str, kind_of: type) -> Any:
    """A metadata value of a sample, or None if it is missing or has the wrong type."""
    value = values.get(name)
    return value if isinstance(value, kind_of) and not isinstance(value, bool) else None
