"""jobs.train end to end on the byte model: what it leaves, what it survives, what it refuses."""

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

from actors.runs.storage import open_storage
from actors.training.worker import METRICS_FILE, read_metrics
from algorithms.prompts import PromptStyle
from algorithms.word_problems import generate
from jobs import sample, train
from jobs.driver import command as driver_command
from jobs.driver import inputs, model_card, training_data, training_run
from jobs.driver.command import UserError
from tests.fixtures.runs import ROOT, command, records, report, wait_for

TEMPLATE = "Q: {question}\nA: "
LONGER = {"max_steps": 12, "dropout": 0.2}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Graded samples of 24 problems: two right and two wrong ones each; some unknown, held out, broken."""
    file = tmp_path_factory.mktemp("graded") / "graded.jsonl"
    rows = []
    for index in range(24):
        problem = generate(5, index, (2, 2))
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


def test_each_run_leaves_an_adapter_a_card_a_report_and_events(lineage, byte_model):
    for name, method in (("neg", "negative"), ("nat", "nat"), ("nce", "nce")):
        facts = report(lineage / name)
        assert facts["method"] == method
        assert facts["status"] == "finished"
        assert facts["steps"] == (12 if name == "neg" else 4)
        # 20 problems with two samples of the wanted kind to train on, 4 to validate on
        assert {part: facts["examples"][part] for part in ("train", "validation")} == {"train": 40, "validation": 8}
        assert facts["examples"]["unused"] == {
            "not_asked_for": 48, "no_columns": 1, "invalid_json": 1, "not_graded": 1, "held_out": 1
        }  # fmt: skip
        assert {"loss", "eval_loss"} <= facts["metrics"].keys()
        assert (lineage / name / "report.html").exists()
        assert list((lineage / name / "tensorboard").glob("events.*"))
        assert facts["passes"] == facts["steps"] * 8 / 40
        assert set(facts["metrics_at"].values()) == {facts["steps"]}
        card = (lineage / name / "adapter" / "README.md").read_text()
        assert "python -m jobs." in card
        assert "cl_temperature" not in card  # a setting of another method
        assert json.loads((lineage / name / "manifest.json").read_text())["identity"]["data"][0]["digest"] in card
    unused = pq.read_table(lineage / "neg" / "examples", filters=[("part", "=", "unused")]).to_pylist()
    assert {row["id"]: row["unused"] for row in unused if row["unused"] in ("not_graded", "held_out")} == {
        "unknown": "not_graded",
        "held": "held_out",
    }


def test_the_negative_side_of_nat_is_what_was_trained_on_wrong_answers(lineage):
    negative, nat = adapter(lineage / "neg"), adapter(lineage / "nat")
    for key, weights in negative.items():
        layer, _, part = key.partition(".lora_")
        assert torch.equal(nat[f"{layer}.nat_negative.{part[0]}"], weights)


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


def test_a_finished_run_is_not_trained_again(lineage, graded, byte_model, capsys):
    before = adapter(lineage / "neg")
    assert run("negative", graded, byte_model, lineage / "neg", **LONGER) == 0
    assert "is finished already" in capsys.readouterr().out
    assert all(torch.equal(before[key], value) for key, value in adapter(lineage / "neg").items())


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


def test_what_is_no_adapter_is_told_with_its_flag(lineage, graded, byte_model, tmp_path):
    given = {"ruined": tmp_path / "ruined", "unfinished": tmp_path / "unfinished"}
    shutil.copytree(lineage / "neg" / "adapter", given["ruined"])
    (given["ruined"] / "adapter_config.json").write_text("{ not json")
    shutil.copytree(lineage / "neg", given["unfinished"])
    manifest = given["unfinished"] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"', 1))
    mistakes = (
        (given["ruined"], "--negative: .*adapter_config.json cannot be read"),
        (given["unfinished"], "--negative: the run in .* is not finished"),
        (tmp_path / "nothing", "--negative: .* does not exist"),
        (tmp_path, "--negative: .* has no adapter_config.json"),
        ("s3://bucket/neg", "--negative s3://bucket/neg is remote"),
    )
    for path, told in mistakes:
        with pytest.raises(UserError, match=told):
            run("nat", graded, byte_model, tmp_path / "run", negative=str(path))


def test_nat_answers_questions(lineage, byte_model, tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(3)))
    given = {
        "input": str(questions), "output": str(tmp_path / "self"), "model": byte_model, "template": TEMPLATE,
        "adapter": str(lineage / "nat"), "num_samples": 2, "max_tokens": 4,
    }  # fmt: skip
    assert sample.run(sample.SampleConfig.model_validate(given)) == 0
    assert {row["status"] for row in records(tmp_path / "self").values()} == {"sampled"}
    identity = json.loads((tmp_path / "self" / "manifest.json").read_text())["identity"]
    assert identity["engine"]["adapter"]["kind"] == "NAT"


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_and_then_interrupted_ends_with_the_same_adapter(lineage, graded, byte_model, tmp_path):
    output = tmp_path / "killed"
    given = flags(byte_model, output, method="negative", data=graded, **LONGER)
    args = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]

    def begin(session):
        """The job, when it has logged a step of its own: workers outlive a killed driver by a moment, and log too."""
        job = subprocess.Popen(
            [sys.executable, "-m", "jobs.train", *args],
            cwd=ROOT,
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: len(sessions(output)) == session, job)
        wait_for(lambda: max(steps_logged(output, sessions(output)[-1]["started_at"]), default=0) >= 3, job)
        return job

    job = begin(1)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    job = begin(2)
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130
    assert said.splitlines()[-1] == "train: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in said
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
    lines = read_metrics(open_storage(str(output)) / METRICS_FILE)
    return [line["step"] for line in lines if "loss" in line and line["time"] > since]


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
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": "Q", "completion": text}) for text in ("A", "B", "~", "D")))
    output = tmp_path / "run"
    short = {"batch_size": 1, "micro_batch": 1, "max_steps": 8, "save_every": 1}
    assert run("sft", str(file), str(tmp_path / "model"), output, **short) == 1
    told = capsys.readouterr().err
    assert "the loss or its gradient is not finite on a micro-batch of rows.jsonl:2; " in told
    saved = re.search(r"the last checkpoint before it is (\S+)", told)
    if saved:  # none, if the first step was the one
        assert all(each.isfinite().all() for each in load_file(f"{saved[1]}/adapter_model.safetensors").values())
    else:
        assert "; no checkpoint" in told
    assert not (output / "adapter").exists()
    assert (output / "report.html").exists()


def test_a_list_of_checkpoints_that_was_cut_in_the_middle_is_dropped(tmp_path):
    run = open_storage(str(tmp_path))
    training_run.drop_broken_state(run)  # there is none yet
    file = tmp_path / training_run.STATE_FOLDER / "checkpoint_manager_snapshot.json"
    file.parent.mkdir()
    for text, is_kept in (('{"checkpoint_results": []}', True), ('{"checkpoint_res', False)):
        file.write_text(text)
        training_run.drop_broken_state(run)
        assert file.exists() == is_kept


def byte_ids(byte_model, text):
    return AutoTokenizer.from_pretrained(byte_model)(text)["input_ids"]


def test_pairs_are_examples_and_what_has_no_partner_is_told(ray_session, byte_model, tmp_path):
    rows = [
        {"prompt": "Q1", "chosen": "A", "rejected": "B"},
        {"prompt": "Q1", "chosen": "C", "rejected": "D"},
        {"prompt": "Q2", "completion": "E"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plan = training_data.ExamplePlan("orpo", byte_model, PromptStyle(TEMPLATE), 100, False, 0)
    corpora = (inputs.list_corpus("--data", str(tmp_path / "pairs.jsonl")),)
    counts = training_data.prepare(corpora, plan, open_storage(str(tmp_path / "run")))
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
    "too long": ("--method sft --max-tokens 99999", "sees 4096 at most"),
    "one part of a base": ("--method sft --sharding fsdp", "--num-workers must be 2 or more"),
    "too many workers": ("--method sft --num-workers 99", "lower --num-workers"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told(ray_session, graded, byte_model, tmp_path, name):
    given, told = MISTAKES[name]
    args = ["--model", byte_model, "--template", TEMPLATE, "--output", str(tmp_path / "x")]
    data = [] if "--data" in given else ["--data", graded]
    with pytest.raises(UserError, match=re.escape(told)):
        train.run(driver_command.parse(train.TrainConfig, [*args, *data, *given.split()], ""))


def test_a_mistake_on_the_command_line_is_one_line(tmp_path):
    done = command("jobs.train", "--method", "nat", "--data", "x.jsonl", "--output", tmp_path / "x")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "needs --negative" in done.stderr


def test_a_refused_run_leaves_its_folder_to_the_mended_command(ray_session, byte_model, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_bytes(b'{"prompt": "Q", "compl\n\xff\nnull\n')
    for name, told in (("empty", "no rows"), ("broken", "1 invalid_json, 1 invalid_utf8, 1 no_object")):
        with pytest.raises(UserError, match=r"nothing for --method sft .*to train on: ") as refused:
            run("sft", str(tmp_path / f"{name}.jsonl"), byte_model, tmp_path / "run")
        assert set(str(refused.value).rpartition(": ")[2].split(", ")) == set(told.split(", "))
        assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "mine" / "examples").mkdir(parents=True)
    with pytest.raises(UserError, match="holds files that are no run of Sluice"):
        run("sft", str(tmp_path / "empty.jsonl"), byte_model, tmp_path / "mine")
    assert (tmp_path / "mine" / "examples").exists()


def test_workers_are_no_more_than_examples(ray_session, byte_model, tmp_path):
    file = tmp_path / "two.jsonl"
    file.write_text("".join(json.dumps({"prompt": "Q", "completion": text}) + "\n" for text in "AB"))
    few_cpus = {"cpus_per_worker": 0.25}
    with pytest.raises(UserError, match="3 workers want an example each, and there are 2: lower --num-workers"):
        run("sft", str(file), byte_model, tmp_path / "run", num_workers="3", **few_cpus)
    assert run("sft", str(file), byte_model, tmp_path / "run", num_workers="1:5", **few_cpus) == 0
    assert steps_logged(tmp_path / "run") == [1, 2, 3, 4]


def test_a_card_tells_how_to_have_the_base(byte_model, monkeypatch):
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
    file = tmp_path / "right.jsonl"
    file.write_text(json.dumps({"prompt": "Q", "completion": "A"}) + "\n")
    with pytest.raises(UserError, match=r"nothing for --method negative \(likelihood of wrong.*1 not_asked_for"):
        run("negative", str(file), byte_model, tmp_path / "run")
