"""Corpora that are made, and real ones that get redundant steps."""

import json

import pyarrow.parquet as pq
import pytest

from algorithms.formats import parse_record
from algorithms.tasks.catalogue import TASKS, make_problem
from tests.fixtures.runs import EXAMPLES, write_lines
from tests.fixtures.verbs import call


def make_corpus(output, *flags, seed=5):
    return call("make_corpus", "--rows", 30, "--seed", seed, "--output", output, *flags)


def mark(source, output, *flags):
    return call("make_corpus", "--mark", source, "--output", output, *flags)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_seed_makes_the_same_corpus(tmp_path):
    assert [make_corpus(tmp_path / f"{n}.jsonl", seed=seed) for n, seed in enumerate((5, 5, 6))] == [0, 0, 0]
    one, same, other = ((tmp_path / f"{n}.jsonl").read_bytes() for n in range(3))
    assert one == same != other


def test_a_larger_corpus_begins_with_a_smaller_one(tmp_path):
    assert make_corpus(tmp_path / "small.jsonl") == make_corpus(tmp_path / "large.jsonl", "--rows", 40) == 0
    assert rows(tmp_path / "large.jsonl")[:30] == rows(tmp_path / "small.jsonl")


@pytest.mark.parametrize("flags", [(), ("--task", "nbc"), ("--samples", 2)], ids=["steps", "another task", "samples"])
def test_a_made_corpus_has_the_same_rows_in_both_formats(tmp_path, flags):
    assert make_corpus(tmp_path / "c.jsonl", *flags) == make_corpus(tmp_path / "c.parquet", *flags) == 0
    lines = rows(tmp_path / "c.jsonl")
    assert len(lines) == 30
    assert pq.read_table(tmp_path / "c.parquet").to_pylist() == lines


def test_a_corpus_of_another_format_is_not_made(tmp_path, capsys):
    assert make_corpus(tmp_path / "c.csv") == 2
    assert capsys.readouterr().err == (
        f"make_corpus: error: --output {tmp_path / 'c.csv'} must end in .jsonl or .parquet\n"
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_flags_are_those_of_the_problems(tmp_path, task):
    flags = ("--task", task, "--difficulty", "hard", "--redundancy", 0.8, "--wordings", "a")
    assert make_corpus(tmp_path / "c.jsonl", *flags) == 0
    for index, row in enumerate(rows(tmp_path / "c.jsonl")):
        problem = make_problem(task, 5, index, difficulty="hard", redundancy=0.8, wordings="a")
        assert row == {
            "id": f"5-{index}",
            "question": problem.question,
            "answer": problem.answer,
            "steps": list(problem.steps),
            "redundant": list(problem.redundant),
            "kinds": list(problem.kinds),
        }


@pytest.mark.parametrize("name", ["gsm8k", "math", "chat"])
def test_marking_a_corpus_keeps_its_steps(tmp_path, name):
    source = EXAMPLES / f"{name}.jsonl"
    assert mark(source, tmp_path / "c.jsonl", "--format", name, "--redundancy", 0.6) == 0
    assert mark(source, tmp_path / "c.parquet", "--format", name, "--redundancy", 0.6) == 0
    marked, records = rows(tmp_path / "c.jsonl"), rows(source)
    assert pq.read_table(tmp_path / "c.parquet").to_pylist() == marked
    assert len(marked) == len(records)
    assert sum(len(row["redundant"]) for row in marked) > len(marked) / 2
    for row, record in zip(marked, records, strict=True):
        chain = parse_record(record, name, {}, None)
        kept = [step for place, step in enumerate(row["steps"]) if place not in row["redundant"]]
        assert (row["question"], row["answer"], kept) == (chain.question, chain.answer, list(chain.steps))
        assert len(row["kinds"]) == len(row["redundant"])


def test_rows_that_cannot_be_read_are_told_and_ids_are_kept(tmp_path, capsys):
    good = {"question": "How many?", "steps": ["One.", "The answer is 1."], "answer": "1"}
    source = write_lines(
        tmp_path / "in.jsonl", [good | {"id": "x"}, good | {"id": 7, "steps": []}, {"id": "y"}, good | {"id": 9}]
    )
    assert mark(source, tmp_path / "out.jsonl", "--format", "steps") == 0
    assert [row["id"] for row in rows(tmp_path / "out.jsonl")] == ["x", "9"]
    assert capsys.readouterr().out == (
        f"wrote 2 problems to {tmp_path / 'out.jsonl'}\n"
        "left out 2 rows that cannot be read: no_steps 1, missing_field 1\n"
    )
    assert mark(source, tmp_path / "out.jsonl", "--format", "steps", "--limit", 1) == 0
    assert [row["id"] for row in rows(tmp_path / "out.jsonl")] == ["x"]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--task al2", "--task 'al2': must be one of word-problems, al1, nbc, diff-calc, time-diff"),
        ("--task al1 --samples 2", "--samples 2 needs --task word-problems: only its mistakes are known"),
        ("--format gsm8k", "--format gsm8k needs --mark FILE"),
        ("--limit 4", "--limit 4 needs --mark FILE"),
        ("--mark x.jsonl", "--mark x.jsonl needs --format, such as --format gsm8k"),
        ("--mark x.jsonl --format gsm8k --task al1", "--task al1 does nothing with --mark: leave it out"),
        ("--mark x.jsonl --format gsm8k --rows 3", "--rows 3 does nothing with --mark: leave it out"),
        ("--mark x.jsonl --format gsm8k --samples 2", "--samples 2 does nothing with --mark: leave it out"),
        ("--mark x.jsonl --format gsm8k --difficulty easy", "--difficulty easy does nothing with --mark: leave it out"),
        ("--redundancy 1.5", "--redundancy 1.5: Input should be less than or equal to 1"),
    ],
)
def test_flags_that_do_not_fit_together_are_one_clear_line(flags, complaint, capsys, tmp_path):
    assert call("make_corpus", "--output", tmp_path / "c.jsonl", *flags.split()) == 2
    assert capsys.readouterr() == ("", f"make_corpus: error: {complaint}\n")
    assert not (tmp_path / "c.jsonl").exists()


def test_a_corpus_to_mark_that_does_not_exist_is_one_clear_line(capsys, tmp_path):
    assert mark(tmp_path / "none.jsonl", tmp_path / "c.jsonl", "--format", "gsm8k") == 2
    assert capsys.readouterr().err.startswith("make_corpus: error: --mark: ")
