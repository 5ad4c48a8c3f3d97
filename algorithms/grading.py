"""Grade a solution: extract its answer, compare it with the gold answer, and explain a grade of unknown.

Nothing here limits time or memory; `actors.grader` does.
"""

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from algorithms.answers.asked import asked_by, differ_only_in_unit, equal_as_asked
from algorithms.answers.demands import demand_of, is_tidy, meets
from algorithms.answers.equivalence import check_parsable
from algorithms.answers.extraction import Extracted, extract
from algorithms.answers.string_rule import string_correct
from algorithms.answers.structure import UnparsableAnswer

# Reason -> explanation of a grade of unknown.
UNKNOWN: Final = MappingProxyType(
    {
        "no_gold": "the problem has no gold answer",
        "no_text": "the sample is null or not text",
        "no_answer": "the solution states no answer",
        "unparsable_gold": "the gold answer cannot be parsed, and the stated answer is a different text",
        "unparsable_answer": "the stated answer cannot be parsed, and the gold answer is a different text",
        "unsure_answer": "the extracted value differs from the gold answer, but may not be the final answer",
        "other_form": "the value is right, but not in the form that the question demands",
        "other_unit": "the value is right, but its unit or what it counts has another name than in the gold answer",
        "several_answers": "the solution gives several answers, one of which is right",
        "failed": "the comparison failed",
        "timeout": "the comparison exceeded the time limit",
        "out_of_memory": "the comparison exceeded the memory limit",
        "crashed": "the comparison process crashed",
    }
)


@dataclass(frozen=True, slots=True)
class Grade:
    """The grade of a solution.

    `correct` is None if the grade is unknown. `reason` is then a key of UNKNOWN, optionally with ": " and detail.
    `string_correct` is the verdict of the string rule.
    """

    answer: str | None
    found_by: str | None
    correct: bool | None
    reason: str | None
    string_correct: bool


def grade(question: str, gold: str, solution: str, *, last_number: bool) -> Grade:
    """Grade one solution. `last_number` lets extraction fall back to the last number."""
    by_string = string_correct(gold, solution)
    found = extract(solution, last_number=last_number)
    if found is None:
        return Grade(None, None, None, "no_answer", by_string)
    graded = _grade_answer(question, gold, found, by_string)
    if graded.correct is True or not found.boxes:
        return graded
    alone = [_grade_answer(question, gold, Extracted(box, found.found_by), by_string) for box in found.boxes]
    if all(each.correct for each in alone):  # one answer, stated twice
        return alone[-1]
    if any(each.correct for each in alone):
        return Grade(found.answer, found.found_by, None, "several_answers", by_string)
    return graded


def _grade_answer(question: str, gold: str, found: Extracted, by_string: bool) -> Grade:
    if not gold.strip():
        return Grade(found.answer, found.found_by, None, "no_gold", by_string)
    if not re.search(r"\w", gold):
        return Grade(found.answer, found.found_by, None, f"unparsable_gold: {gold[:60]}", by_string)
    try:
        demand = demand_of(question)
        is_equal = equal_as_asked(asked_by(question), gold, found.answer)
        correct = is_equal and meets(demand, gold, found.answer)
        if correct and not is_tidy(demand, gold, found.answer):
            return Grade(found.answer, found.found_by, None, "other_form", by_string)
        if not is_equal and differ_only_in_unit(gold, found.answer):
            return Grade(found.answer, found.found_by, None, "other_unit", by_string)
    except UnparsableAnswer as error:
        try:
            check_parsable(gold)
        except UnparsableAnswer as gold_error:
            return Grade(found.answer, found.found_by, None, f"unparsable_gold: {gold_error}", by_string)
        return Grade(found.answer, found.found_by, None, f"unparsable_answer: {error}", by_string)
    if found.found_by in ("concluded", "last_number") and not correct:
        return Grade(found.answer, found.found_by, None, "unsure_answer", by_string)
    return Grade(found.answer, found.found_by, correct, None, by_string)
