"""A ranker that reads the solution: trained on graded samples, resumed, and used to rank."""

import json
import random

import pytest
from safetensors.torch import load_file

from actors.errors import UserError
from actors.ranking.folder import open_ranker
from actors.runs.folder import open_run_folder
from actors.runs.metrics import read_metrics
from algorithms.ranking.solutions import Solution
from jobs import rank
from jobs.driver import encoder_training
from jobs.driver.encoder_training import EncoderConfig
from tests.fixtures.runs import grade_samples, kill_all, records, report, start, wait_for, write_lines
from tests.fixtures.tiny_bert import write_tiny_bert
from tests.fixtures.verbs import call

pytestmark = pytest.mark.usefixtures("ray_session")

QUICK = {
    "epochs": 8, "patience": 8, "learning_rate": 3e-3, "head_learning_rate": 3e-3, "tokens_per_batch": 400,
    "pairs_per_problem": "all", "cpus_per_worker": 1, "log_every": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    return write_tiny_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="module")
def graded(ray_session, tmp_path_factory):
    """Samples of 240 sums. A right solution says `so` and a wrong one `um`; one is long, and one has no text."""
    folder, chance = tmp_path_factory.mktemp("graded"), random.Random(3)
    rows = []
    for number in range(240):
        one, other = chance.randrange(1, 50), chance.randrange(1, 40)
        right, wrong = one + other, one + other + 1
        texts = [f"so a b {right} $\\boxed{{{right}}}$", f"um a b {wrong} $\\boxed{{{wrong}}}$"]
        if chance.random() < 0.5:
            texts.append(f"c so d {right} $\\boxed{{{right}}}$")
        rows.append({"question": f"{one} + {other} = ? q q{number}", "answer": str(right), "samples": texts})
    rows[4]["samples"][0] = None
    rows[5]["samples"][1] = "a b " * 100 + rows[5]["samples"][1]
    source = write_lines(folder / "s.jsonl", rows)
    assert grade_samples(input=str(source), output=str(folder / "run"), splits=(0.6, 0.2, 0.2)) == 0
    return folder / "run"


def train(graded, model, output, **flags):
    given = {"method": "ranker-encoder", "data": [str(graded)], "model": model, "output": str(output)}
    return encoder_training.run(EncoderConfig.model_validate(given | QUICK | flags))


@pytest.fixture(scope="module")
def ranker(graded, tiny_bert, tmp_path_factory):
    output = tmp_path_factory.mktemp("encoder") / "run"
    assert train(graded, tiny_bert, output) == 0
    return output


def ranked(input, ranker, output, **flags):
    given = {"input": str(input), "ranker": str(ranker), "output": str(output)}
    return rank.run(rank.RankConfig.model_validate(given | flags))


@pytest.mark.slow
def test_an_encoder_learns_says_how_well_and_needs_its_folder_alone(graded, ranker):
    facts = report(ranker)
    assert facts["kind"] == "encoder"
    assert facts["measured"]["held_out"]["pair_accuracy"]["low"] > 0.9
    assert [each["epoch"] for each in facts["epochs"]] == list(range(1, 9))
    best = max(each["validation_pair_accuracy"] for each in facts["epochs"])
    assert facts["epochs"][facts["best_epoch"] - 1]["validation_pair_accuracy"] == best
    totals = json.loads((ranker / "manifest.json").read_text())["totals"]
    assert (totals["unused"], sum(totals["cut"].values())) == ({"unknown grade": 1}, 1)
    page = (ranker / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "cut to the window" in page
    assert sorted(path.name for path in ranker.iterdir()) == [
        "manifest.json", "metrics.jsonl", "ranker", "report.html", "report.json",
    ]  # fmt: skip
    described = json.loads((ranker / "ranker/ranker.json").read_text())
    assert {path.name for path in (ranker / "ranker").iterdir()} == {*described["files"], "ranker.json"}


@pytest.mark.slow
def test_every_sample_with_text_gets_the_score_that_it_has_alone(graded, ranker, tmp_path):
    assert ranked(graded, ranker, tmp_path / "run") == 0
    before, after = records(graded), records(tmp_path / "run")
    assert set(after) == set(before)
    scorer = open_ranker("--ranker", str(ranker)).load()
    for row_id, record in list(after.items())[:20]:
        score = record.pop("score")
        assert record == before[row_id]
        if record["rationale"] is None:
            assert score is None
            continue
        [alone] = scorer.score([Solution(record["question"], record["rationale"], record["answer"])])
        assert score == pytest.approx(alone, abs=1e-5)
    facts = report(tmp_path / "run")
    assert facts["mean_score"]["right"] > 0.7 > 0.3 > facts["mean_score"]["wrong"]


@pytest.mark.slow
def test_two_workers_train_one_ranker(graded, tiny_bert, tmp_path):
    assert train(graded, tiny_bert, tmp_path / "two", num_workers=2, loss="bradley-terry", pairs_per_problem="2") == 0
    assert report(tmp_path / "two")["measured"]["held_out"]["pair_accuracy"]["low"] > 0.9


@pytest.mark.slow
@pytest.mark.timeout(600)  # three trainings and two starts of Ray
def test_a_killed_run_goes_on_at_the_last_finished_epoch(graded, tiny_bert, tmp_path):
    flags = QUICK | {"epochs": 25, "patience": 25}
    given = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    output = tmp_path / "killed"
    log = open_run_folder(str(output)).metrics
    job = start(
        "jobs.train", "--method", "ranker-encoder", "--data", graded, "--model", tiny_bert, "--output", output, *given
    )
    wait_for(lambda: any(line["epoch"] >= 6 for line in read_metrics(log)), job)
    kill_all(job)
    logged = read_metrics(log)
    assert logged[-1]["epoch"] < 25
    assert train(graded, tiny_bert, output, **flags) == 0
    # Ray Train hears of a checkpoint a moment after it was made, and epochs are short here.
    kept = [line for line in read_metrics(log) if line in logged]
    assert kept == logged[: len(kept)]
    assert kept[-1]["epoch"] >= 1
    assert [each["epoch"] for each in report(output)["epochs"]] == list(range(1, 26))
    assert train(graded, tiny_bert, tmp_path / "whole", **flags) == 0
    whole = load_file(tmp_path / "whole/ranker/weights.safetensors")
    resumed = load_file(output / "ranker/weights.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_what_cannot_be_trained_is_told_in_one_line(graded, tiny_bert, tmp_path, capsys):
    narrow = write_tiny_bert(tmp_path / "narrow", window=32)
    capsys.readouterr()
    usual = ["train", "--method", "ranker-encoder", "--data", graded, "--output", tmp_path / "run"]
    assert call(*usual, "--model", tiny_bert, "--max-tokens", "63") == 2
    assert call(*usual, "--model", tiny_bert, "--max-tokens", "65") == 2
    assert call(*usual, "--model", tmp_path / "nothing") == 2
    assert call(*usual, "--model", narrow) == 2
    assert call(*usual, "--pairs-per-problem", "none") == 2
    assert call(*usual, "--loss", "bce", "--power", "2") == 2
    assert [line.removeprefix("train: error: ") for line in capsys.readouterr().err.splitlines()] == [
        "--max-tokens 63: Input should be greater than or equal to 64",
        f"--max-tokens 65: model '{tiny_bert}' sees 64 at most",
        f"model folder '{tmp_path / 'nothing'}' does not exist",
        f"--model {narrow} sees 32 tokens: a ranker needs 64 or more",
        "--pairs-per-problem 'none': must be a number from 1 on, or all",
        "--power does nothing with --loss bce",
    ]
    assert not (tmp_path / "run").exists()


def test_data_without_pairs_are_told_in_one_line(tiny_bert, tmp_path):
    """Right and wrong samples, but never of one problem."""
    answers = [str(number % 2) for number in range(60)]
    rows = [
        {"question": f"q {n}", "answer": "1", "samples": [rf"\boxed{{{given}}}"]} for n, given in enumerate(answers)
    ]
    source = write_lines(tmp_path / "s.jsonl", rows)
    assert grade_samples(input=str(source), output=str(tmp_path / "graded"), splits=(0.6, 0.2, 0.2)) == 0
    with pytest.raises(UserError, match=r"--data: 0 problems of the split train have both a right and a wrong sample"):
        train(tmp_path / "graded", tiny_bert, tmp_path / "run")


@pytest.mark.slow
def test_a_gpu_is_refused_where_it_does_nothing(graded, ranker, tmp_path):
    described = json.loads((ranker / "ranker/ranker.json").read_text())
    (tmp_path / "boosted").mkdir()
    (tmp_path / "boosted/ranker.json").write_text(json.dumps(described | {"kind": "boosted", "files": []}))
    with pytest.raises(UserError, match=r"--gpus-per-actor 1 does nothing with a boosted ranker: drop it"):
        ranked(graded, tmp_path / "boosted", tmp_path / "run", gpus_per_actor=1)
