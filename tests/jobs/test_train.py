"""jobs.train on Ray with the byte model: what it leaves, what it survives, what it refuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.errors import UserError
from actors.models.source import ModelSource
from actors.runs.folder import open_run_folder
from actors.runs.metrics import read_metrics
from algorithms.methods import LossOptions
from algorithms.prompts import PromptStyle
from algorithms.tasks.catalogue import make_problem
from jobs import sample, train
from jobs.driver import inputs, training_data, training_fit
from jobs.driver.command import parse
from jobs.reports import model_card
from tests.fixtures.runs import command, records, report, start, wait_for, write_lines, write_questions

pytestmark = pytest.mark.timeout(900)  # the first test of a lineage trains three adapters
TEMPLATE = "Q: {question}\nA: "
LONGER = {"max_steps": 12, "dropout": 0.2}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Graded samples of 24 problems: two right and two wrong ones each; some unknown, held out, broken."""
    file = tmp_path_factory.mktemp("graded") / "graded.jsonl"
    rows = []
    for index in range(24):
        problem = make_problem("word-problems", 5, index, difficulty="easy")
        for number in range(4):
            rows.append(
                {
                    "id": f"{index}#{number}",
                    "status": "right" if number < 2 else "wrong",
                    "correct": number < 2,
                    "split": "validation" if index >= 20 else "train",
                    "question": problem.question,
                    "rationale": " ".join(problem.steps[number:]) + (" or not" if number >= 2 else ""),
                }
            )
    rows.append(rows[0] | {"id": "unknown", "correct": None, "status": "unknown"})
    rows.append(rows[0] | {"id": "held", "split": "held_out"})
    rows.append({"text": "none of it"})
    file.write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n")
    return str(file)


def flags(byte_model, output, **more):
    """Flags of a short run."""
    return {
        "model": byte_model, "template": TEMPLATE, "output": str(output), "max_steps": 4, "batch_size": 8,
        "micro_batch": 4, "log_every": 1, "save_every": 2, "rank": 4, "cpus_per_worker": 1,
    } | more  # fmt: skip


def run(method, data, byte_model, output, **more):
    """`jobs.train` on the shared Ray; the exit status."""
    given = flags(byte_model, output, method=method, data=(data,), **more)
    return train.run(train.TrainConfig.model_validate(given))


def adapter(output):
    return load_file(f"{output}/adapter/adapter_model.safetensors")


@pytest.fixture(scope="module")
def lineage(ray_session, graded, byte_model, tmp_path_factory):
    """negative -> nat -> nce."""
    root = tmp_path_factory.mktemp("lineage")
    assert run("negative", graded, byte_model, root / "neg", **LONGER) == 0
    assert run("nat", graded, byte_model, root / "nat", negative=str(root / "neg"), gate_dim=16) == 0
    assert run("nce", graded, byte_model, root / "nce", nat=str(root / "nat"), precompute="beta") == 0
    return root


METHOD_OF = {"neg": "negative", "nat": "nat", "nce": "nce"}  # by the folder of the run


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_OF)
def test_a_report_counts_steps_and_examples(lineage, name):
    facts = report(lineage / name)
    assert (facts["method"], facts["status"]) == (METHOD_OF[name], "finished")
    assert facts["steps"] == (12 if name == "neg" else 4)
    # 20 problems with two samples of the wanted kind to train on, 4 to validate on
    assert {part: facts["examples"][part] for part in ("train", "validation")} == {"train": 40, "validation": 8}
    assert facts["passes"] == facts["steps"] * 8 / 40


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_OF)
def test_a_report_has_the_last_metrics_and_a_page(lineage, name):
    facts = report(lineage / name)
    assert {"loss", "eval_loss"} <= facts["metrics"].keys()
    assert set(facts["metrics_at"].values()) == {facts["steps"]}
    assert "<svg" in (lineage / name / "report.html").read_text()
    assert list((lineage / name / "tensorboard").glob("events.*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_OF)
def test_a_card_says_how_the_adapter_was_made(lineage, name):
    card = (lineage / name / "adapter" / "README.md").read_text()
    assert "python -m jobs." in card
    assert "cl_temperature" not in card  # a setting of another method
    assert json.loads((lineage / name / "manifest.json").read_text())["identity"]["data"][0]["digest"] in card


@pytest.mark.slow
def test_every_row_that_is_not_used_has_a_reason(lineage):
    assert report(lineage / "neg")["examples"]["unused"] == {
        "not_asked_for": 48, "no_columns": 1, "invalid_json": 1, "not_graded": 1, "held_out": 1
    }  # fmt: skip
    unused = pq.read_table(lineage / "neg" / "examples", filters=[("part", "=", "unused")]).to_pylist()
    assert {row["id"]: row["unused"] for row in unused if row["unused"] in ("not_graded", "held_out")} == {
        "unknown": "not_graded",
        "held": "held_out",
    }


@pytest.mark.slow
def test_the_negative_side_of_nat_is_what_was_trained_on_wrong_answers(lineage):
    negative, nat = adapter(lineage / "neg"), adapter(lineage / "nat")
    for key, weights in negative.items():
        layer, _, part = key.partition(".lora_")
        assert torch.equal(nat[f"{layer}.nat_negative.{part[0]}"], weights)


@pytest.mark.slow
def test_peft_alone_loads_the_student(lineage, byte_model):
    card = (lineage / "nce" / "adapter" / "README.md").read_text()
    script = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1] + (
        "import sys; assert not any(name.startswith('algorithms') for name in sys.modules); "
        "import torch; print(model(torch.tensor([[1, 2, 3]])).logits[0, -1, :3].tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script],
        capture_output=True,
        text=True,
        cwd=lineage / "nce",
    )
    assert done.returncode == 0, done.stderr
    base = AutoModelForCausalLM.from_pretrained(byte_model)
    plain = base(torch.tensor([[1, 2, 3]])).logits[0, -1, :3].tolist()
    assert json.loads(done.stdout.splitlines()[-1]) != pytest.approx(plain, abs=1e-6)


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(lineage, graded, byte_model, capsys):
    before = adapter(lineage / "neg")
    assert run("negative", graded, byte_model, lineage / "neg", **LONGER) == 0
    assert "is already finished" in capsys.readouterr().out
    assert all(torch.equal(before[key], value) for key, value in adapter(lineage / "neg").items())


@pytest.mark.slow
def test_an_adapter_of_another_kind_or_base_is_refused(lineage, graded, byte_model, tmp_path):
    with pytest.raises(UserError, match="of kind NAT, not LORA"):
        run("nat", graded, byte_model, tmp_path / "a", negative=str(lineage / "nat"))
    with pytest.raises(UserError, match="does not fit model"):
        run("nat", graded, "smollm2", tmp_path / "b", negative=str(lineage / "neg"))
    with pytest.raises(UserError, match=r"has no weights for .*k_proj"):
        run("nat", graded, byte_model, tmp_path / "c", negative=str(lineage / "neg"), targets=("q_proj", "k_proj"))
    other = AutoModelForCausalLM.from_pretrained(byte_model)
    shutil.copytree(byte_model, tmp_path / "other")
    with torch.no_grad():
        other.lm_head.weight += 1
    other.save_pretrained(tmp_path / "other")  # every shape fits
    with pytest.raises(UserError, match="was trained on another base"):
        run("nat", graded, str(tmp_path / "other"), tmp_path / "d", negative=str(lineage / "neg"))


@pytest.mark.slow
def test_the_message_about_an_unusable_adapter_names_its_flag(lineage, graded, byte_model, tmp_path):
    given = {"ruined": tmp_path / "ruined", "unfinished": tmp_path / "unfinished"}
    shutil.copytree(lineage / "neg" / "adapter", given["ruined"])
    (given["ruined"] / "adapter_config.json").write_text("{ not json")
    shutil.copytree(lineage / "neg", given["unfinished"])
    manifest = given["unfinished"] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"', 1))
    mistakes = (
        (given["ruined"], "--negative: adapter .*: cannot read adapter_config.json"),
        (given["unfinished"], "--negative: the run in .* is not finished"),
        (tmp_path / "nothing", "--negative: .* does not exist"),
        (tmp_path, "--negative: .* must hold adapter_config.json and adapter_model.safetensors"),
        ("s3://bucket/neg", "--negative s3://bucket/neg is remote"),
    )
    for path, complaint in mistakes:
        with pytest.raises(UserError, match=complaint):
            run("nat", graded, byte_model, tmp_path / "run", negative=str(path))


@pytest.mark.slow
def test_nat_answers_questions(lineage, byte_model, tmp_path):
    questions = write_questions(tmp_path / "questions.jsonl", 3)
    given = {
        "input": str(questions), "output": str(tmp_path / "self"), "model": byte_model, "template": TEMPLATE,
        "adapter": str(lineage / "nat"), "num_samples": 2, "max_tokens": 4,
    }  # fmt: skip
    assert sample.run(sample.SampleConfig.model_validate(given)) == 0
    assert {row["status"] for row in records(tmp_path / "self").values()} == {"sampled"}
    identity = json.loads((tmp_path / "self" / "manifest.json").read_text())["identity"]
    assert identity["engine"]["adapter"]["kind"] == "NAT"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_and_then_interrupted_ends_with_the_same_adapter(lineage, graded, byte_model, tmp_path):
    output = tmp_path / "killed"
    given = flags(byte_model, output, method="negative", data=graded, **LONGER)
    args = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]

    def begin(session):
        """The job, when it has logged a step of its own: workers outlive a killed driver by a moment, and log too."""
        job = start("jobs.train", *args, start_new_session=True, stderr=subprocess.PIPE)
        wait_for(lambda: len(sessions(output)) == session, job)
        wait_for(lambda: max(steps_logged(output, sessions(output)[-1]["started_at"]), default=0) >= 3, job)
        return job

    job = begin(1)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    job = begin(2)
    job.send_signal(signal.SIGINT)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 130
    assert errors.splitlines()[-1] == "train: interrupted; repeat the command to resume"
    assert "Traceback" not in errors
    assert not (output / "adapter").exists()
    assert run("negative", graded, byte_model, output, **LONGER) == 0
    expected, found = adapter(lineage / "neg"), adapter(output)
    assert max((expected[key] - found[key]).abs().max().item() for key in expected) < 1e-5
    assert steps_logged(output) == list(range(1, 13))
    assert report(output)["sessions"] == 3


def sessions(output):
    try:
        return json.loads((output / "manifest.json").read_text())["sessions"]
    except FileNotFoundError:
        return []


def steps_logged(output, since=0.0):
    lines = read_metrics(open_run_folder(str(output)).metrics)
    return [line["step"] for line in lines if "loss" in line and line["time"] > since]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_that_share_a_base_survive_the_death_of_one(ray_session, graded, byte_model, tmp_path):
    output = tmp_path / "run"
    killed = []

    def kill():
        wait_for(lambda: max(steps_logged(output), default=0) >= 3)
        workers = [each for each in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(each.cmdline())]
        killed.append(workers[0].pid)
        workers[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    assert run("sft", graded, byte_model, output, num_workers="2", sharding="fsdp", max_steps=30) == 0
    killer.join()
    assert killed
    assert steps_logged(output) == list(range(1, 31))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(ray_session, byte_model, tmp_path, capsys):
    model = AutoModelForCausalLM.from_pretrained(byte_model)
    shutil.copytree(byte_model, tmp_path / "model")
    with torch.no_grad():
        model.get_input_embeddings().weight[byte_ids(byte_model, "~")] = torch.nan
    model.save_pretrained(tmp_path / "model")
    file = write_completions(tmp_path / "rows.jsonl", "AB~D")
    output = tmp_path / "run"
    short = {"batch_size": 1, "micro_batch": 1, "max_steps": 8, "save_every": 1}
    assert run("sft", str(file), str(tmp_path / "model"), output, **short) == 1
    errors = capsys.readouterr().err
    assert "the loss or its gradient is not finite on a micro-batch of rows.jsonl:2; " in errors
    saved = re.search(r"the last checkpoint is (\S+)", errors)
    if saved:  # none, if the first step was the one
        assert all(each.isfinite().all() for each in load_file(f"{saved[1]}/adapter_model.safetensors").values())
    else:
        assert "; there is no checkpoint" in errors
    assert not (output / "adapter").exists()
    assert (output / "report.html").exists()


def test_a_mistake_in_a_worker_ends_the_run_at_the_first_attempt(ray_session, byte_model, tmp_path):
    shutil.copytree(byte_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()  # only workers load weights
    file = write_completions(tmp_path / "rows.jsonl", "AB")
    complaint = "training failed: cannot load model .*; another attempt would fail too"
    with pytest.raises(UserError, match=complaint) as refused:
        run("sft", str(file), str(tmp_path / "model"), tmp_path / "run")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("text", "is_kept"), [('{"checkpoint_results": []}', True), ('{"checkpoint_res', False)])
def test_a_list_of_checkpoints_that_was_cut_in_the_middle_is_dropped(tmp_path, text, is_kept):
    output = open_run_folder(str(tmp_path))
    output.train_state.make_folder()
    file = output.train_state / "checkpoint_manager_snapshot.json"
    file.write_bytes(text.encode())
    training_fit.drop_broken_state(output)
    assert file.exists() == is_kept


def test_a_run_without_a_list_of_checkpoints_begins(tmp_path):
    training_fit.drop_broken_state(open_run_folder(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def write_completions(path, texts):
    """Rows with a prompt and, as the completion, one of the texts each."""
    return write_lines(path, [{"prompt": "Q", "completion": text} for text in texts])


def byte_ids(byte_model, text):
    return AutoTokenizer.from_pretrained(byte_model)(text)["input_ids"]


def test_pairs_become_examples_and_a_row_without_a_partner_does_not(ray_session, byte_model, tmp_path):
    rows = [
        {"prompt": "Q1", "chosen": "A", "rejected": "B"},
        {"prompt": "Q1", "chosen": "C", "rejected": "D"},
        {"prompt": "Q2", "completion": "E"},
    ]
    source = write_lines(tmp_path / "pairs.jsonl", rows)
    plan = training_data.ExamplePlan("orpo", ModelSource(byte_model), PromptStyle(TEMPLATE), 100, False, 0)
    corpora = (inputs.list_corpus("--data", str(source)),)
    counts = training_data.prepare(corpora, plan, open_run_folder(str(tmp_path / "run")))
    assert (counts.train, counts.validation, counts.unused) == (2, 0, {"no_partner": 1})
    tokenizer = AutoTokenizer.from_pretrained(byte_model)
    table = pq.read_table(tmp_path / "run" / "examples", filters=[("part", "=", "train")]).to_pylist()
    texts = [[tokenizer.decode(each["tokens"][:-1]) for each in row["solutions"]] for row in table]
    assert sorted(texts) == [["Q1A", "Q1B"], ["Q1C", "Q1D"]]


MISTAKES = {
    "nat alone": ("--method nat", "needs --negative"),
    "nce alone": ("--method nce", "needs --nat"),
    "no such method": ("--method rlhf", "must be one of sft, orpo"),
    "no such layer": ("--method sft --targets wq", "it has down_proj, gate_proj"),
    "no such data": ("--method sft --data nowhere.jsonl", "--data"),
    "flag of another method": ("--method sft --orpo-lambda 1", "it is for orpo"),
    "likelihood weight of cl": ("--method sft --likelihood-weight 0.5", "it is for cl"),
    "temperature of cl": ("--method nce --cl-temperature 0.5", "it is for cl"),
    "likelihood weight below 0": ("--method cl --likelihood-weight -1", "--likelihood-weight"),
    "temperature of 0": ("--method cl --cl-temperature 0", "--cl-temperature"),
    "too long": ("--method sft --max-tokens 99999", "sees 4096 at most"),
    "one part of a base": ("--method sft --sharding fsdp", "--num-workers must be 2 or more"),
    "too many workers": ("--method sft --num-workers 99", "lower --num-workers"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused(ray_session, graded, byte_model, tmp_path, name):
    given, complaint = MISTAKES[name]
    args = ["--model", byte_model, "--template", TEMPLATE, "--output", str(tmp_path / "x")]
    data = [] if "--data" in given else ["--data", graded]
    with pytest.raises(UserError, match=re.escape(complaint)):
        train.run(parse(train.TrainConfig, [*args, *data, *given.split()], ""))


def test_the_numbers_of_a_loss_are_those_of_its_flags():
    """The defaults are the losses' own, and a flag changes its number."""
    given = ["--method", "cl", "--data", "x.jsonl", "--output", "x"]
    assert train._options(parse(train.TrainConfig, given, "")) == LossOptions()
    changed = parse(train.TrainConfig, [*given, "--cl-temperature", "0.5", "--likelihood-weight", "0"], "")
    assert train._options(changed) == LossOptions(cl_temperature=0.5, likelihood_weight=0.0)


def test_help_warns_of_the_unbounded_loss_of_nt(capsys):
    with pytest.raises(SystemExit):
        parse(train.TrainConfig, ["--help"], "")
    assert "The loss of nt has no lower bound" in " ".join(re.sub(r"[│\s]+", " ", capsys.readouterr().out).split())


def test_a_mistake_on_the_command_line_is_one_line(tmp_path):
    done = command("jobs.train", "--method", "nat", "--data", "x.jsonl", "--output", tmp_path / "x")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "needs --negative" in done.stderr


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", {"no rows"}),
        (b'{"prompt": "Q", "compl\n\xff\nnull\n', {"1 invalid_json", "1 invalid_utf8", "1 no_object"}),
    ],
)
def test_a_run_without_examples_leaves_its_folder_to_the_corrected_command(
    ray_session, byte_model, tmp_path, content, why
):
    (tmp_path / "data.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"--data has no example for --method sft .*: ") as refused:
        run("sft", str(tmp_path / "data.jsonl"), byte_model, tmp_path / "run")
    assert set(str(refused.value).rpartition(": ")[2].split(", ")) == why
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(ray_session, byte_model, tmp_path):
    (tmp_path / "mine" / "examples").mkdir(parents=True)
    file = write_completions(tmp_path / "data.jsonl", "A")
    with pytest.raises(UserError, match="holds files that are not a run of Sluice"):
        run("sft", str(file), byte_model, tmp_path / "mine")
    assert (tmp_path / "mine" / "examples").exists()


def test_workers_are_no_more_than_examples(ray_session, byte_model, tmp_path):
    file = write_completions(tmp_path / "two.jsonl", "AB")
    few_cpus = {"cpus_per_worker": 0.25}
    with pytest.raises(UserError, match="3 workers need an example each, and there are 2: lower --num-workers"):
        run("sft", str(file), byte_model, tmp_path / "run", num_workers="3", **few_cpus)
    assert run("sft", str(file), byte_model, tmp_path / "run", num_workers="1:5", **few_cpus) == 0
    assert steps_logged(tmp_path / "run") == [1, 2, 3, 4]


def test_a_card_has_the_lines_that_load_the_base(byte_model, monkeypatch):
    monkeypatch.chdir(Path(byte_model).parent)
    relative, embedded, hub = (
        "\n".join(model_card.loading(name, is_nat=name == "smollm2"))
        for name in (Path(byte_model).name, "smollm2", "org/model")
    )
    assert f"from_pretrained({byte_model!r})" in relative
    assert 'gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"' in embedded
    assert embedded.startswith("import algorithms.nat\n")
    assert "from_pretrained('org/model')" in hub
    for script in (relative, embedded, hub):
        compile(script, "card", "exec")


def test_data_without_a_wrong_sample_says_what_is_missing(ray_session, byte_model, tmp_path):
    file = write_completions(tmp_path / "right.jsonl", "A")
    with pytest.raises(UserError, match=r"no example for --method negative \(likelihood of wrong.*1 not_asked_for"):
        run("negative", str(file), byte_model, tmp_path / "run")
