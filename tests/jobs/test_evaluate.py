"""Votes and stopping rules over graded runs, and comparisons, through the verb."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.errors import UserError
from jobs import evaluate
from jobs.evaluate import EvaluateConfig
from tests.fixtures.runs import command, grade_samples, report, write_lines, write_questions

pytestmark = pytest.mark.usefixtures("ray_session")
NUM_PROBLEMS = 80


def evaluated(output, **flags):
    values = {"num_orders": 2, "output": str(output)} | flags
    return evaluate.run(EvaluateConfig.model_validate({name: value for name, value in values.items() if value}))


def grade(folder, name, samples_of, count=NUM_PROBLEMS, **columns):
    """A graded run of `count` problems, whose answer is the number of the problem; returns its folder."""
    rows = [
        {"question": f"Which number follows {number - 1}?", "answer": str(number), "samples": samples_of(number)}
        | {"level": "even" if number % 2 == 0 else "odd"}
        | columns
        for number in range(count)
    ]
    source = write_lines(folder / f"{name}.jsonl", rows)
    assert grade_samples(input=str(source), output=str(folder / name)) == 0
    return str(folder / name)


def boxes(*answers):
    return [f"So it is $\\boxed{{{answer}}}$." for answer in answers]


def three_kinds(number):
    """A third of the problems are solved by the majority, a third by a minority, a third by nobody."""
    right, wrong = number, number + 1000
    return boxes(*((right, right, wrong), (wrong, right, wrong), (wrong, wrong, wrong))[number % 3])


@pytest.fixture(scope="module")
def graded(ray_session, tmp_path_factory):
    return grade(tmp_path_factory.mktemp("graded"), "run", three_kinds)


@pytest.fixture(scope="module")
def evaluation(graded, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation") / "run"
    assert evaluated(output, input=[graded]) == 0
    return output


def test_votes_bounds_and_pass_at_k_are_those_of_the_samples(evaluation):
    facts = report(evaluation)
    solved = len(range(0, NUM_PROBLEMS, 3)) / NUM_PROBLEMS
    found_once = len(range(1, NUM_PROBLEMS, 3)) / NUM_PROBLEMS
    means = {vote: each["accuracy"]["mean"] for vote, each in facts["votes"].items()}
    assert set(means) == {"sc", "posterior", "first", "oracle"}  # without scores and log-probabilities
    assert means["sc"] == pytest.approx(solved) == pytest.approx(means["first"])
    assert means["oracle"] == pytest.approx(solved + found_once)
    assert facts["pass_at"]["1"]["mean"] == pytest.approx(solved * 2 / 3 + found_once / 3)
    assert facts["pass_at"]["2"]["mean"] == pytest.approx(solved + found_once * 2 / 3)
    assert (facts["unit"], facts["samples_per_problem"]) == ("characters", 3)
    assert {name: group["problems"] for name, group in facts["by"]["level"].items()} == {"even": 40, "odd": 40}
    assert "type" not in facts["by"]  # no problem has one


def test_each_problem_has_a_row_and_each_rule_a_policy(evaluation):
    rows = pq.read_table(evaluation / "problems.parquet").to_pylist()
    assert len({row["problem"] for row in rows}) == NUM_PROBLEMS
    assert sum(row["accuracy_sc"] for row in rows) == pytest.approx(len(range(0, NUM_PROBLEMS, 3)))
    policies = json.loads((evaluation / "policies.json").read_text())
    suggested = {name for name, rule in report(evaluation)["rules"].items() if rule["suggestion"]}
    assert set(policies) == suggested >= {"fixed", "gain"}
    assert policies["fixed"]["maximum"] == 3


def test_a_finished_evaluation_is_not_repeated_and_another_one_is_refused(evaluation, graded, capsys):
    assert evaluated(evaluation, input=[graded]) == 0
    assert "is already finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"belongs to another run: evaluation\.votes"):
        evaluated(evaluation, input=[graded], votes=["sc"])


def test_runs_over_the_same_questions_are_one_pool_whose_equal_answers_share_a_class(graded, tmp_path):
    """Alone the second run is right by 2 to 1. Beside it, 1.0 counts with 1."""
    decimal = grade(tmp_path, "decimal", lambda number: boxes(f"{number}.0", f"{number}.0", number + 2000))
    assert evaluated(tmp_path / "both", input=[graded, decimal], votes=["sc"], rules=["fixed"]) == 0
    facts = report(tmp_path / "both")
    assert facts["samples_per_problem"] == 6
    # 4 of 6, 3 of 6 against 2, 2 of 6 against 3
    assert facts["votes"]["sc"]["accuracy"]["mean"] == pytest.approx(54 / 80)


def test_a_budget_may_cut_the_sample_that_states_the_answer_of_its_class(tmp_path):
    """Of the second run only sample 0 is kept. A reader of its rows meets that answer first in sample 3."""

    def reversed_run(name, right, wrong):
        run = Path(grade(tmp_path, name, lambda n: boxes(right(n), n + wrong, n + wrong, right(n))))
        for file in (run / "rows").glob("*.parquet"):
            order = [("problem_id", "descending"), ("sample_index", "descending")]
            pq.write_table(pq.read_table(file).sort_by(order), file)
        return str(run)

    runs = [reversed_run("whole", str, 1000), reversed_run("decimal", "{}.0".format, 2000)]
    assert evaluated(tmp_path / "both", input=runs, budget=5, votes=["sc"], rules=["fixed"]) == 0
    facts = report(tmp_path / "both")
    assert facts["samples_per_problem"] == 5
    assert facts["votes"]["sc"]["accuracy"]["mean"] == 1  # 3 against 2; 2 against 2 if 7.0 were no 7


def test_budget_and_split_choose_samples_and_problems(graded, tmp_path):
    assert evaluated(tmp_path / "one", input=[graded], budget=1, votes=["sc"]) == 0
    facts = report(tmp_path / "one")
    assert (facts["samples"], facts["rules"]) == (NUM_PROBLEMS, {})
    assert evaluated(tmp_path / "train", input=[graded], split="train", votes=["sc"], rules=["fixed"]) == 0
    assert 0 < report(tmp_path / "train")["problems"] < NUM_PROBLEMS


def test_comparisons_are_paired_by_problem(evaluation, graded, tmp_path, capsys):
    better = grade(tmp_path, "better", lambda number: boxes(number, number, number + 1) if number % 3 else boxes(7000))
    assert evaluated(tmp_path / "eval", input=[better], votes=["sc"]) == 0
    capsys.readouterr()
    compare = EvaluateConfig(compare=(str(evaluation), str(tmp_path / "eval")), output=str(tmp_path / "compared"))
    assert evaluate.run(compare) == 0
    found = report(tmp_path / "compared")["comparisons"][0]["votes"]["sc"]
    assert (found["better"], found["worse"]) == (53, 27)
    assert found["difference"]["mean"] == pytest.approx((53 - 27) / 80)
    assert 0.001 < found["p_value"] < 0.02
    assert "+32.50 points" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"is no run of jobs\.evaluate"):
        evaluate.run(EvaluateConfig(compare=(str(evaluation), graded)))


def test_sample_logs_of_lm_evaluation_harness_are_graded_first(tmp_path):
    chance = random.Random(1)
    rows = []
    for number in range(60):
        right = chance.random() < 0.5
        stated = number if right else number + 1
        row = {
            "doc": {"question": f"What is {number}?"},
            "doc_hash": f"h{number}",
            "target": f"It is.\n#### {number}",
            "resps": [[f"The answer is {stated}."]],
            "exact_match": float(right),
        }
        rows += [row | {"filter": "strict"}, row | {"filter": "flexible"}]
    log = str(write_lines(tmp_path / "samples_task.jsonl", rows))
    assert evaluated(tmp_path / "run", input=[log], format="lm-eval", votes=["sc"]) == 0
    facts = report(tmp_path / "run")
    right = sum(row["exact_match"] for row in rows) / 2
    assert facts["votes"]["sc"]["accuracy"]["mean"] == pytest.approx(right / 60)
    assert facts["unused"] == {"not_graded": 60}
    assert report(tmp_path / "run/graded")["given"]["agreement"] == 1


@pytest.mark.slow
def test_a_model_is_sampled_graded_and_evaluated_by_one_command(byte_model, tmp_path):
    questions = write_questions(tmp_path / "test.jsonl", 6)
    flags = {"model": byte_model, "test": str(questions), "samples": 2, "max_tokens": 5, "template": "{question}"}
    assert evaluated(tmp_path / "run", **flags, votes=["first", "oracle"], rules=["fixed"], rule_vote="sc") == 0
    facts = report(tmp_path / "run")
    assert (facts["problems"], facts["samples"], facts["unit"]) == (6, 12, "tokens")
    assert {"samples", "graded"} <= {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"votes": ["asc"]}, r"--votes asc needs the scores of a ranker: give a run of jobs\.rank, or --ranker"),
        ({"votes": ["ws"]}, "--votes ws needs log-probabilities"),
        ({"rules": ["cges"]}, "--rules cges needs the scores"),
        ({"minimum": 4}, "--minimum 4: no problem has more than 3 samples"),
        ({"num_folds": 81}, "80 problems cannot be cut into 81 folds"),
    ],
)
def test_what_the_samples_do_not_allow_is_told_in_one_line(graded, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path / "run", input=[graded], **flags)


def test_few_problems_silence_and_one_class_only(tmp_path, capsys):
    few = grade(tmp_path, "few", lambda number: boxes(number, number), count=5)
    assert evaluated(tmp_path / "few-votes", input=[few]) == 0
    assert "left out: posterior, gain (needs 50 problems to learn from, and there are 5)" in capsys.readouterr().out
    assert report(tmp_path / "few-votes")["votes"]["sc"]["accuracy"]["mean"] == 1
    all_right = grade(tmp_path, "right", lambda number: boxes(number, number), count=60)
    assert evaluated(tmp_path / "right-votes", input=[all_right]) == 0
    assert report(tmp_path / "right-votes")["votes"]["posterior"]["accuracy"]["mean"] == 1
    silent = grade(tmp_path, "silent", lambda number: ["I do not know."], count=60)
    assert evaluated(tmp_path / "silent-votes", input=[silent]) == 0
    assert "left out: posterior, gain (needs samples that state an answer, and none does)" in capsys.readouterr().out
    assert report(tmp_path / "silent-votes")["votes"]["oracle"]["accuracy"]["mean"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of --input, --model and --compare is needed"),
        (["--input", "x"], "--output is needed"),
        (["--compare", "x"], "--compare needs two runs or more"),
        (["--model", "smollm2", "--output", "o"], "--model and --test belong together"),
        (["--input", "x", "--output", "o", "--temperature", "0"], "--temperature does nothing without --model"),
        (["--compare", "x", "y", "--votes", "sc"], "--votes does nothing with --compare"),
        (["--input", "x", "--output", "o", "--format", "questions"], "--format questions is for --test"),
        (["--input", "x", "--output", "o", "--votes", "most"], "must be one of sc, ws"),
    ],
)
@pytest.mark.slow
def test_flags_that_contradict_each_other_are_one_line_and_exit_status_2(flags, message):
    found = command("jobs.evaluate", *flags)
    assert found.returncode == 2
    assert message in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
