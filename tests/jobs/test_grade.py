"""From samples to grades on Ray: every sample gets one grade, whatever the corpus holds."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import UserError
from tests.fixtures.runs import (
    EXAMPLES,
    command,
    grade_samples,
    reasons,
    records,
    report,
    sample_with_table,
    write_lines,
    write_questions,
)
from tests.fixtures.table_engine import REFUSED

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def sampled(ray_session, tmp_path_factory):
    """A run of jobs.sample over 60 questions, one of which has no samples."""
    folder = tmp_path_factory.mktemp("sampled")
    questions = write_questions(folder / "q.jsonl", 60, {7: f"This {REFUSED}"})
    assert sample_with_table(input=str(questions), output=str(folder / "run")) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def graded(sampled):
    output = sampled.parent / "graded"
    assert grade_samples(input=str(sampled), output=str(output)) == 0
    return output


def test_every_sample_gets_one_grade_and_keeps_what_is_known_of_it(sampled, graded):
    found = records(graded)
    for problem_id, problem in records(sampled).items():
        for index, each in enumerate(problem["samples"] or []):
            record = found.pop(f"{problem_id}#{index}")
            assert record["correct"] == (f"{{{problem['answer']}}}" in each["text"])
            assert (record["gold"], record["rationale"]) == (problem["answer"], each["text"])
            assert (record["mean_logprob"], record["finish_reason"]) == (each["mean_logprob"], each["finish_reason"])
            assert record["source"] == problem["source"]
    assert {row_id: row["reason"].split(":")[0] for row_id, row in found.items()} == {"q.jsonl:7": "not_sampled"}


def test_the_report_counts_samples_by_level_and_split(graded):
    facts = report(graded)
    assert facts["samples"]["total"] == 177
    assert facts["quarantined_by_reason"] == {"not_sampled": 1}
    assert set(facts["by_level"]) == {"0", "1", "2"}
    assert sum(sum(counts.values()) for counts in facts["by_split"].values()) == 177


def test_a_finished_run_only_prints_its_summary(sampled, graded, capsys):
    assert grade_samples(input=str(sampled), output=str(graded)) == 0
    printed = capsys.readouterr().out
    assert "is already finished" in printed
    assert "177 of 60 problems" in printed


@pytest.mark.parametrize("name", ["run", "graded"])
def test_the_report_is_written_again_by_a_process_of_its_own(sampled, graded, name):
    folder = sampled.parent / name
    before = (folder / "report.json").read_bytes()
    (folder / "report.json").unlink()
    done = command("jobs.report", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "report.json").read_bytes() == before


def test_a_run_that_is_not_finished_is_not_graded(tmp_path):
    questions = write_questions(tmp_path / "q.jsonl", 5)
    assert sample_with_table(input=str(questions), output=str(tmp_path / "samples")) == 0
    manifest = tmp_path / "samples" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"'))
    with pytest.raises(UserError, match="is not finished"):
        grade_samples(input=str(tmp_path / "samples"), output=str(tmp_path / "graded"))


def test_a_question_has_the_same_split_in_every_corpus(tmp_path):
    rows = [{"question": f"What is {n}?", "answer": str(n), "samples": [rf"\boxed{{{n}}}"]} for n in range(40)]
    splits = {}
    for name, chosen in (("all", rows), ("some", rows[::3])):
        source = write_lines(tmp_path / f"{name}.jsonl", chosen)
        assert grade_samples(input=str(source), output=str(tmp_path / name), splits=(0.5, 0.3, 0.2)) == 0
        splits[name] = {record["question"]: record["split"] for record in records(tmp_path / name).values()}
    assert len(set(splits["all"].values())) == 3
    assert splits["some"].items() <= splits["all"].items()


def test_a_bad_sample_is_kept_with_its_reason(tmp_path):
    rows = [
        {"question": "null", "answer": "1", "samples": None},
        {"question": "empty", "answer": "1", "samples": []},
        {"question": "text", "answer": "1", "samples": "1"},
        {"question": "lists", "answer": "1", "samples": [[r"\boxed{1}"], None, {"a": 1}, 5, r"\boxed{1}"]},
        {"question": "no gold", "samples": [r"\boxed{1}"]},
        {"question": "broken gold", "answer": r"\frac{1}{", "samples": [r"\boxed{1}"]},
        {"answer": "1", "samples": [r"\boxed{1}"]},
        {"question": "foreign", "answer": 1e-7, "samples": [{"text": r"\boxed{0.0000001}", "num_tokens": "12"}]},
    ]
    source = write_lines(tmp_path / "c.jsonl", rows)
    assert grade_samples(input=str(source), output=str(tmp_path / "graded")) == 0
    assert reasons(tmp_path / "graded") == {
        "c.jsonl:0": "null_field", "c.jsonl:1": "no_samples", "c.jsonl:2": "wrong_type",
        "c.jsonl:3#0": "no_text", "c.jsonl:3#1": "no_text", "c.jsonl:3#2": "no_text", "c.jsonl:3#3": "no_text",
        "c.jsonl:4#0": "no_gold", "c.jsonl:5#0": "unparsable_gold", "c.jsonl:6": "missing_field",
    }  # fmt: skip
    found = records(tmp_path / "graded")
    assert found["c.jsonl:3#4"]["status"] == found["c.jsonl:7#0"]["status"] == "right"


def test_null_in_a_list_of_a_parquet_file_is_an_unknown_sample(tmp_path):
    table = pa.table({"question": ["a"], "answer": ["1"], "samples": [[r"\boxed{1}", None]]})
    pq.write_table(table, tmp_path / "c.parquet")
    assert grade_samples(input=str(tmp_path / "c.parquet"), output=str(tmp_path / "graded")) == 0
    assert [row["status"] for row in records(tmp_path / "graded").values()] == ["right", "unknown"]


def test_the_example_samples_have_the_grades_that_the_documentation_says(tmp_path):
    assert grade_samples(input=str(EXAMPLES / "samples.jsonl"), output=str(tmp_path / "graded")) == 0
    counts = report(tmp_path / "graded")["samples"]
    assert (counts["right"], counts["wrong"], counts["unknown"]) == (23, 22, 3)


def test_the_templates_of_a_public_release_are_stripped(tmp_path):
    rows = [
        {
            "question": f"Problem:\nWhat is {n} + {n}?",
            "answer": rf"It is $\boxed{{{2 * n}}}$.",
            "generated_answer": [rf"Solution:\nLet us add: \boxed{{{2 * n}}}", r"Solution:\nIt is \boxed{-1}"],
            "level": f"Level {1 + n % 5}",
        }
        for n in range(10)
    ]
    source = write_lines(tmp_path / "tdg.jsonl", rows)
    assert grade_samples(input=str(source), format="tdg", output=str(tmp_path / "graded")) == 0
    found = records(tmp_path / "graded").values()
    assert not any(record["question"].startswith("Problem:") for record in found)
    assert not any(record["rationale"].startswith("Solution:") for record in found)
    facts = report(tmp_path / "graded")
    assert (facts["samples"]["right"], facts["samples"]["wrong"]) == (10, 10)
    assert facts["string_rule"]["only_strings"] == 0
    assert set(facts["by_level"]) == {f"Level {number}" for number in range(1, 6)}


def test_flags_of_a_release_are_compared_with_the_grades(tmp_path):
    rows = [
        {
            "question": f"What is {n} + {n}?",
            "ground_truth": f"It is {2 * n}.\n#### {2 * n}",
            "6b": {"solution": f"It is {2 * n}\n#### {2 * n}", "is_correct": True},
            "175b": {"solution": "It is 99\n#### 99", "is_correct": n == 0},  # the label of the first is wrong
        }
        for n in range(10)
    ]
    source = write_lines(tmp_path / "solutions.jsonl", rows)
    assert grade_samples(input=str(source), format="gsm8k-solutions", output=str(tmp_path / "graded")) == 0
    facts = report(tmp_path / "graded")
    given = facts["given"]
    assert (given["flags"], given["agreeing"], given["contrary"], given["unknown"]) == (20, 19, 1, 0)
    assert given["agreement"] == 0.95
    assert set(facts["by_origin"]) == {"6b", "175b"}


def test_real_corpora_agree_with_the_string_rule_and_with_their_flags(tmp_path, shared_data):
    tdg = shared_data / "math_teacher" / "gpt-3.5-turbo.parquet"
    assert grade_samples(input=str(tdg), format="tdg", limit=40, output=str(tmp_path / "tdg")) == 0
    found = records(tmp_path / "tdg").values()
    assert len(found) == 320
    assert not any(record["question"].startswith("Problem:") for record in found)
    assert not any(record["rationale"].startswith("Solution:") for record in found)
    facts = report(tmp_path / "tdg")
    assert set(facts["by_level"]) <= {f"Level {number}" for number in range(1, 6)}
    assert facts["string_rule"]["only_strings"] == 0
    assert facts["samples"]["right"] > facts["string_rule"]["right"] > 80

    solutions = shared_data / "gsm8k" / "model_solutions.jsonl"
    assert grade_samples(input=str(solutions), format="gsm8k-solutions", limit=60, output=str(tmp_path / "gsm8k")) == 0
    facts = report(tmp_path / "gsm8k")
    given = facts["given"]
    assert (given["flags"], given["contrary"]) == (240, 0)
    assert given["agreeing"] + given["unknown"] == 240
    assert given["agreement"] == given["agreeing"] / 240 > 0.99
    assert len(facts["by_origin"]) == 4
