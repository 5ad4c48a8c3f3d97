"""A ranker trained on graded samples, and samples ranked by it."""

import json
import random
import shutil

import pytest

from actors.errors import UserError
from actors.ranking.folder import open_ranker
from actors.runs.folder import open_run_folder
from jobs import rank
from jobs.driver import ranker_training
from jobs.driver.ranker_training import RankerConfig
from tests.fixtures.runs import grade_samples, records, report, write_lines

pytestmark = pytest.mark.usefixtures("ray_session")


def solution(one, other, is_right, slip):
    """A worked sum. A wrong one either holds a false equation or never computes anything."""
    stated = one + other if is_right else one + other + 1
    if is_right or slip:
        return f"We add the numbers: ${one} + {other} = {stated}$. The answer is $\\boxed{{{stated}}}$."
    return f"I guess that it is about $\\boxed{{{stated}}}$."


@pytest.fixture(scope="module")
def graded(ray_session, tmp_path_factory):
    """Samples of 300 sums, right and wrong, one without text; one problem without samples."""
    folder, chance = tmp_path_factory.mktemp("graded"), random.Random(3)
    rows = []
    for number in range(300):
        one, other = chance.randrange(10, 99), number + 2
        grades = [chance.random() < 0.5 for _ in range(4)]
        texts = [solution(one, other, right, chance.random() < 0.7) for right in grades]
        rows.append({"question": f"What is {one} + {other}?", "answer": str(one + other), "samples": texts})
    rows[5]["samples"][0] = None
    rows.append({"question": "Nobody answered.", "answer": "1", "samples": []})
    source = write_lines(folder / "s.jsonl", rows)
    assert grade_samples(input=str(source), output=str(folder / "run"), splits=(0.6, 0.2, 0.2)) == 0
    return folder / "run"


def train(graded, output, **flags):
    small = {"num_trees": 60, "learning_rate": 0.2, "min_leaf": 10, "num_leaves": 7}
    return ranker_training.run(
        RankerConfig.model_validate({"method": "ranker", "data": [str(graded)], "output": str(output)} | small | flags)
    )


@pytest.fixture(scope="module")
def ranker(graded, tmp_path_factory):
    output = tmp_path_factory.mktemp("ranker") / "run"
    assert train(graded, output) == 0
    return output


def ranked(input, ranker, output):
    return rank.run(rank.RankConfig.model_validate({"input": str(input), "ranker": str(ranker), "output": str(output)}))


def test_grading_counts_the_claims_of_each_sample_and_the_classes_of_answers(graded):
    found = records(graded).values()
    for record in found:
        if record["rationale"] is not None and "We add" in record["rationale"]:
            assert (record["claims_true"] > 0, record["claims_false"] > 0) == (record["correct"], not record["correct"])
    problem = [record for record in found if record["problem_id"] == "s.jsonl:0"]
    by_answer = {record["answer"]: record["answer_class"] for record in problem}
    assert sorted(by_answer.values()) == list(range(len(by_answer)))


def test_the_ranker_knows_right_from_wrong_and_says_how_well(ranker):
    facts = report(ranker)
    held_out = facts["measured"]["held_out"]
    assert held_out["pair_accuracy"]["low"] > 0.95
    assert held_out["calibration_error"] < 0.1
    assert sum(facts["importance"].values()) == pytest.approx(1)
    assert next(iter(facts["importance"])).startswith("checks.")
    manifest = json.loads((ranker / "manifest.json").read_text())
    assert manifest["totals"]["unused"] == {"unknown grade": 1, "not_graded": 1}
    assert not (ranker / "examples").exists()


@pytest.mark.slow
def test_the_same_data_give_the_same_ranker(graded, ranker, tmp_path):
    assert train(graded, tmp_path / "again") == 0
    assert (tmp_path / "again/ranker/model.txt").read_text() == (ranker / "ranker/model.txt").read_text()


@pytest.mark.slow
def test_two_workers_make_one_ranker(graded, tmp_path):
    assert train(graded, tmp_path / "two", num_workers=2) == 0
    assert report(tmp_path / "two")["measured"]["held_out"]["pair_accuracy"]["low"] > 0.9


def test_every_sample_keeps_its_record_and_gets_a_score(graded, ranker, tmp_path):
    assert ranked(graded, ranker, tmp_path / "run") == 0
    before, after = records(graded), records(tmp_path / "run")
    assert set(after) == set(before)
    scorer = open_ranker("--ranker", str(ranker)).load()
    for row_id, record in after.items():
        score = record.pop("score")
        if record["status"] == "quarantined":
            assert record["reason"] == "not_graded: no_samples: column 'samples' is empty"
            continue
        assert record == before[row_id]
        assert (score is None) == (record["rationale"] is None)
        assert score is None or 0 < score < 1
    facts = report(tmp_path / "run")
    assert facts["mean_score"]["right"] > 0.8 > 0.2 > facts["mean_score"]["wrong"]
    assert (facts["without_text"], facts["quarantined"]) == (1, 1)
    assert scorer.score([]) == []


def test_bad_rankers_and_bad_data_are_told_in_one_line(graded, ranker, tmp_path):
    with pytest.raises(UserError, match="holds no ranker: train one first"):
        ranked(graded, tmp_path / "nothing", tmp_path / "run")
    old = tmp_path / "old"
    shutil.copytree(ranker / "ranker", old)
    described = json.loads((old / "ranker.json").read_text())
    (old / "ranker.json").write_text(json.dumps(described | {"format": 0}))
    with pytest.raises(UserError, match=r"is a ranker of format 0 .* train it again"):
        ranked(graded, old, tmp_path / "run")
    (old / "ranker.json").write_text(json.dumps(described | {"features": ["text.unheard_of"]}))
    with pytest.raises(UserError, match="was trained on other features"):
        open_ranker("--ranker", str(old)).load()
    with pytest.raises(UserError, match=r"--data: t\.jsonl has no column 'status': give it a run of jobs\.grade"):
        train(write_lines(tmp_path / "t.jsonl", [{"question": "?"}]), tmp_path / "no-run")
    rows = [{"question": f"{n}?", "answer": "1", "samples": [r"\boxed{1}"]} for n in range(40)]
    source = write_lines(tmp_path / "right.jsonl", rows)
    assert grade_samples(input=str(source), output=str(tmp_path / "right"), splits=(0.6, 0.2, 0.2)) == 0
    with pytest.raises(UserError, match=r"needs right and wrong samples in the split train, got \d+ and 0"):
        train(tmp_path / "right", tmp_path / "one-class")
    assert open_run_folder(str(tmp_path / "one-class")).manifest.exists()
