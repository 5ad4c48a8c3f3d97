"""The grader as the plain callable it is, with the processes it kills."""

import asyncio
import time

import pyarrow as pa
import pytest

from actors.grader import Grader
from actors.runs.corpus import PROBLEM_SCHEMA
from actors.runs.ledger import SESSION_FILE
from actors.runs.records import RecordStore
from actors.runs.storage import open_storage
from algorithms.splits import SPLITS, split_of

LIMIT_SECONDS = 3.0
FRACTIONS = (0.8, 0.1, 0.1)


def sample(text, **values):
    return {"text": text, "fault": None, "origin": None, "given_correct": None, "num_tokens": None,
            "finish_reason": None, "mean_logprob": None} | values  # fmt: skip


def row(number, gold, samples, **values):
    return {"id": f"r{number}", "shard": "0000000-0000000", "reason": None, "source": "{}", "question": f"q{number}",
            "answer": gold, "samples": samples, "last_number": False} | values  # fmt: skip


@pytest.fixture
def grade(tmp_path):
    """Grades rows in one batch; their records, by id."""

    def graded(*rows):
        (tmp_path / SESSION_FILE).write_text("s")
        actor = Grader(open_storage(str(tmp_path)), "s", 1, LIMIT_SECONDS, FRACTIONS, 7)

        async def call():
            return await actor(pa.Table.from_pylist(list(rows), schema=PROBLEM_SCHEMA))

        stats = asyncio.run(call())
        assert stats["num_rows"].to_pylist() == [len(rows)]
        store = RecordStore(open_storage(str(tmp_path / "rows")))
        return {record["id"]: record for batch in store.batches() for record in batch.to_pylist()}

    return graded


def test_a_problem_gives_a_record_a_sample(grade):
    samples = [
        sample(r"so \boxed{0.5}", mean_logprob=-0.5, num_tokens=7, finish_reason="stop"),
        sample(r"so \boxed{\frac{1}{3}}", origin="m", given_correct=True),
        sample("I do not know"),
        sample(None, fault="null_field: sample 3"),
    ]
    found = grade(row(1, r"\frac{1}{2}", samples), row(2, "", [sample(r"\boxed{1}")]))
    assert list(found) == ["r1#0", "r1#1", "r1#2", "r1#3", "r2#0"]
    right, wrong, nothing, null, no_gold = found.values()
    assert right == {
        "id": "r1#0", "problem_id": "r1", "sample_index": 0, "split": split_of("q1", FRACTIONS, 7), "status": "right",
        "correct": True, "reason": None, "question": "q1", "gold": r"\frac{1}{2}", "rationale": r"so \boxed{0.5}",
        "answer": "0.5", "found_by": "boxed", "string_correct": True, "given_correct": None, "origin": None,
        "num_tokens": 7, "finish_reason": "stop", "mean_logprob": -0.5, "source": "{}",
    }  # fmt: skip
    assert (wrong["status"], wrong["correct"], wrong["origin"], wrong["given_correct"]) == ("wrong", False, "m", True)
    assert (nothing["status"], nothing["correct"], nothing["reason"]) == ("unknown", None, "no_answer")
    assert (null["status"], null["reason"]) == ("unknown", "no_text: null_field: sample 3")
    assert (no_gold["status"], no_gold["reason"], no_gold["answer"]) == ("unknown", "no_gold", "1")


def test_what_never_ends_costs_its_limit_and_nothing_else(grade):
    endless = sample(r"\boxed{9^{9^{9^{9}}}}")
    huge = sample(rf"\boxed{{{'1+' * 50_000}1}}")
    samples = [sample(r"\boxed{2}"), endless, huge, sample(r"\boxed{3}")]
    started = time.monotonic()
    found = grade(row(1, "2", samples), *(row(number, "5", [sample(r"\boxed{5}")]) for number in range(2, 40)))
    # The problem once, then the endless sample alone: what the kill itself takes is bounded too.
    assert time.monotonic() - started < 2 * LIMIT_SECONDS + 20
    assert [found[f"r1#{index}"]["status"] for index in range(4)] == ["right", "unknown", "unknown", "wrong"]
    assert found["r1#1"]["reason"].split(":")[0] in ("timeout", "out_of_memory")
    assert found["r1#2"]["reason"].split(":")[0] == "unparsable_answer"
    assert all(found[f"r{number}#0"]["status"] == "right" for number in range(2, 40))


def test_a_gold_answer_that_is_nothing_is_said_to_be_so(grade):
    found = grade(row(1, r"\frac{1}{", [sample(r"\boxed{2}")]), row(2, "2", [sample(r"\boxed{\foo{!}^}")]))
    assert found["r1#0"]["reason"].split(":")[0] == "unparsable_gold"
    assert found["r2#0"]["reason"].split(":")[0] == "unparsable_answer"


@pytest.mark.parametrize("answer", [r"(-1)!", r"\infty-\infty", r"\sum_{k=1}^{\infty}\frac{1}{k}", r"\frac{1}{0}"])
def test_what_sympy_stumbles_over_is_that_samples_fault_alone(grade, answer):
    found = grade(row(1, r"\sqrt{21}", [sample(rf"\boxed{{{answer}}}"), sample(r"\boxed{\sqrt{21}}")]))
    assert [record["status"] for record in found.values()][1] == "right"
    assert found["r1#0"]["status"] in ("wrong", "unknown")


def test_a_quarantined_problem_has_one_record(grade):
    found = grade(row(1, "7", None, reason="invalid_json: x", question=None))
    assert [(record["gold"], record["answer"]) for record in found.values()] == [("7", None)]
    assert [(record["problem_id"], record["sample_index"], record["status"]) for record in found.values()] == [
        ("r1", None, "quarantined")
    ]


def test_splits_depend_on_the_question_and_the_seed_alone():
    names = [split_of(f"question {number}", (0.6, 0.3, 0.1), 1) for number in range(4000)]
    for name, fraction in zip(SPLITS, (0.6, 0.3, 0.1), strict=True):
        assert abs(names.count(name) / 4000 - fraction) < 0.03
    assert split_of("What  is\n2?", FRACTIONS, 0) == split_of(" what is 2?", FRACTIONS, 0)
    assert [split_of(f"question {number}", (0.6, 0.3, 0.1), 2) for number in range(4000)] != names
    assert {split_of(f"{number}", (0.0, 0.0, 1.0), 0) for number in range(50)} == {"held_out"}
