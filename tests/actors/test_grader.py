"""The grader as the plain callable it is, with the processes it kills."""

import asyncio
import time

import pyarrow as pa
import pytest

from actors.grader import Grader
from actors.runs.corpus import PROBLEM_SCHEMA
from actors.runs.folder import open_run_folder
from actors.runs.session import begin_session
from algorithms.splits import split_of
from tests.fixtures.rows import given_sample, problem_row
from tests.fixtures.runs import records

LIMIT_SECONDS = 3.0
FRACTIONS = (0.8, 0.1, 0.1)


@pytest.fixture
def grade(tmp_path):
    """Grades rows in one batch; their records, by id."""

    def graded(*rows):
        run = open_run_folder(str(tmp_path))
        begin_session(run, "s")
        actor = Grader(run, "s", 1, LIMIT_SECONDS, FRACTIONS, 7)

        async def call():
            return await actor(pa.Table.from_pylist(list(rows), schema=PROBLEM_SCHEMA))

        stats = asyncio.run(call())
        assert stats["num_rows"].to_pylist() == [len(rows)]
        return records(tmp_path)

    return graded


def test_a_problem_gives_a_record_a_sample(grade):
    samples = [
        given_sample(r"so \boxed{0.5}", mean_logprob=-0.5, num_tokens=7, finish_reason="stop"),
        given_sample(r"so \boxed{\frac{1}{3}}", origin="m", given_correct=True),
        given_sample("I do not know"),
        given_sample(None, fault="null_field: sample 3"),
    ]
    found = grade(problem_row(1, r"\frac{1}{2}", samples), problem_row(2, "", [given_sample(r"\boxed{1}")]))
    assert list(found) == ["r1#0", "r1#1", "r1#2", "r1#3", "r2#0"]
    right, wrong, nothing, null, no_gold = found.values()
    assert right == {
        "id": "r1#0", "problem_id": "r1", "sample_index": 0, "split": split_of("q1", FRACTIONS, 7), "status": "right",
        "correct": True, "reason": None, "question": "q1", "gold": r"\frac{1}{2}", "rationale": r"so \boxed{0.5}",
        "answer": "0.5", "found_by": "boxed", "string_correct": True, "given_correct": None, "origin": None,
        "answer_class": 0, "claims_true": 0, "claims_false": 0, "claims_unchecked": 0,
        "num_tokens": 7, "finish_reason": "stop", "mean_logprob": -0.5, "source": "{}",
    }  # fmt: skip
    assert (wrong["answer_class"], nothing["answer_class"]) == (1, None)
    assert (wrong["status"], wrong["correct"], wrong["origin"], wrong["given_correct"]) == ("wrong", False, "m", True)
    assert (nothing["status"], nothing["correct"], nothing["reason"]) == ("unknown", None, "no_answer")
    assert (null["status"], null["reason"]) == ("unknown", "no_text: null_field: sample 3")
    assert (no_gold["status"], no_gold["reason"], no_gold["answer"]) == ("unknown", "no_gold", "1")


def test_an_endless_answer_costs_its_limit_and_nothing_else(grade):
    endless = given_sample(r"\boxed{9^{9^{9^{9}}}}")
    huge = given_sample(rf"\boxed{{{'1+' * 50_000}1}}")
    samples = [given_sample(r"\boxed{2}"), endless, huge, given_sample(r"\boxed{3}")]
    started = time.monotonic()
    found = grade(
        problem_row(1, "2", samples),
        *(problem_row(number, "5", [given_sample(r"\boxed{5}")]) for number in range(2, 40)),
    )
    # The problem once, then the endless sample alone: what the kill itself takes is bounded too.
    assert time.monotonic() - started < 2 * LIMIT_SECONDS + 20
    assert [found[f"r1#{index}"]["status"] for index in range(4)] == ["right", "unknown", "unknown", "wrong"]
    assert found["r1#1"]["reason"].split(":")[0] in ("timeout", "out_of_memory")
    assert found["r1#2"]["reason"].split(":")[0] == "unparsable_answer"
    assert all(found[f"r{number}#0"]["status"] == "right" for number in range(2, 40))


def test_an_answer_that_cannot_be_parsed_is_the_reason(grade):
    found = grade(
        problem_row(1, r"\frac{1}{", [given_sample(r"\boxed{2}")]),
        problem_row(2, "2", [given_sample(r"\boxed{\foo{!}^}")]),
    )
    assert found["r1#0"]["reason"].split(":")[0] == "unparsable_gold"
    assert found["r2#0"]["reason"].split(":")[0] == "unparsable_answer"


@pytest.mark.parametrize("answer", [r"(-1)!", r"\infty-\infty", r"\sum_{k=1}^{\infty}\frac{1}{k}", r"\frac{1}{0}"])
def test_an_answer_that_sympy_fails_on_concerns_its_sample_alone(grade, answer):
    found = grade(
        problem_row(1, r"\sqrt{21}", [given_sample(rf"\boxed{{{answer}}}"), given_sample(r"\boxed{\sqrt{21}}")])
    )
    assert [record["status"] for record in found.values()][1] == "right"
    assert found["r1#0"]["status"] in ("wrong", "unknown")


def test_a_quarantined_problem_has_one_record(grade):
    found = grade(problem_row(1, "7", None, reason="invalid_json: x", question=None))
    assert [(record["gold"], record["answer"]) for record in found.values()] == [("7", None)]
    assert [(record["problem_id"], record["sample_index"], record["status"]) for record in found.values()] == [
        ("r1", None, "quarantined")
    ]


def test_answers_that_sympy_fails_to_compare_keep_their_grades_and_share_classes_by_text(grade):
    # Each equals itself; comparing the two makes SymPy raise, whatever it raises.
    texts = [r"\boxed{\sum_{k=1}^{\infty}\frac{1}{k}}", r"\boxed{\prod_{k=1}^{\infty}k}", r"\boxed{2}"]
    found = grade(problem_row(1, "2", [given_sample(text) for text in (*texts, texts[0])]))
    assert found["r1#2"]["status"] == "right"
    classes = [record["answer_class"] for record in found.values()]
    assert classes[0] == classes[3] != classes[2]
