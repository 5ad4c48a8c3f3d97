"""The trainer in this process: every method, resuming, micro-batches, precomputed teachers."""

import itertools
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.errors import NonFiniteLoss, UserError
from actors.models.source import ModelSource
from actors.training.batches import StepSampler
from actors.training.examples import EXAMPLE_SCHEMA, LESSON_SCHEMA, MakeExamples
from actors.training.teacher import Teacher
from actors.training.trainer import AdapterTrainer, TrainingPlan, build_model
from algorithms.methods import METHODS, AdapterPlan, LossOptions, teach
from algorithms.micro_batches import collate
from algorithms.prompts import PromptStyle
from algorithms.tasks.catalogue import make_problem

PLAN = AdapterPlan(r=4, dropout=0.2, gate_dim=16)


@pytest.fixture(scope="module")
def lessons():
    """Two right solutions and one wrong one to each of 20 problems; the last four are for validation."""
    rows = []
    for index in range(20):
        problem = make_problem("word-problems", 1, index, difficulty="easy")
        for number, is_right in enumerate((True, True, False)):
            rows.append(
                {"problem": str(index), "id": f"{index}#{number}", "question": problem.question}
                | {"text": " ".join(problem.steps[number:]), "is_right": is_right}
                | {"split": "train" if index < 16 else "validation"}
            )
    return pa.Table.from_pylist(rows, schema=LESSON_SCHEMA)


def examples_of(lessons, byte_model, method, part="train"):
    make = MakeExamples(
        METHODS[method].view, ModelSource(byte_model), PromptStyle("Q: {question}\nA: "), 4000, False, 0
    )
    table = make(lessons)
    return table.filter(pc.equal(table["part"], part)).sort_by("place")


def plan_of(method, byte_model, adapter, options=None, **settings):
    model = ModelSource(byte_model)
    return TrainingPlan(method=method, model=model, adapter=adapter, options=options or LossOptions(), **settings)


class Run:
    """One training, what it logged, and copies of its checkpoints."""

    def __init__(self, folder, byte_model, method, examples, adapter=PLAN, validation=None, resume=None, **settings):
        given = {
            "num_steps": 6, "batch_size": 8, "micro_batch": 3, "learning_rate": 1e-3, "warmup_steps": 1,
            "log_every": 1, "save_every": 3, "num_threads": 1,
        } | settings  # fmt: skip
        self.folder = folder
        self.logs = []
        self.plan = plan_of(method, byte_model, adapter, **given)
        self.trainer = AdapterTrainer(
            self.plan,
            examples,
            folder / "work",
            validation=validation,
            on_log=lambda step, metrics: self.logs.append((step, metrics)),
            on_save=lambda step, saved: shutil.copytree(saved, folder / str(step)),
        )
        self.trainer.train(resume_from_checkpoint=resume)

    def weights(self, step=6):
        return load_file(self.folder / str(step) / "adapter_model.safetensors")

    def series(self, name):
        return [metrics[name] for _, metrics in self.logs if name in metrics]


def apart(one, other):
    assert one.keys() == other.keys()
    return max((one[key] - other[key]).abs().max().item() for key in one)


@pytest.fixture(scope="module")
def negative(byte_model, lessons, tmp_path_factory):
    return Run(tmp_path_factory.mktemp("neg"), byte_model, "negative", examples_of(lessons, byte_model, "negative"))


@pytest.fixture(scope="module")
def nat(byte_model, lessons, negative, tmp_path_factory):
    plan = replace(PLAN, negative=str(negative.folder / "6"))
    return Run(tmp_path_factory.mktemp("nat"), byte_model, "nat", examples_of(lessons, byte_model, "nat"), plan)


@pytest.mark.parametrize("method", ["sft", "nat", "nce"])
def test_a_resumed_run_ends_as_one_that_never_stopped(method, byte_model, lessons, negative, nat, tmp_path):
    examples = examples_of(lessons, byte_model, method)
    plan = {"nat": replace(PLAN, negative=str(negative.folder / "6")), "nce": replace(PLAN, nat=str(nat.folder / "6"))}
    whole = Run(tmp_path / "whole", byte_model, method, examples, plan.get(method, PLAN))
    again = Run(
        tmp_path / "again", byte_model, method, examples, plan.get(method, PLAN), resume=str(tmp_path / "whole" / "3")
    )
    assert apart(whole.weights(), again.weights()) < 1e-6
    assert again.series("loss") == pytest.approx(whole.series("loss")[3:])
    assert apart(whole.weights(3), whole.weights(6)) > 1e-4


def test_watching_does_not_change_what_is_learned(byte_model, lessons, negative, tmp_path):
    examples = examples_of(lessons, byte_model, "negative")
    validation = examples_of(lessons, byte_model, "negative", "validation")
    watched = Run(
        tmp_path / "watched", byte_model, "negative", examples, validation=validation, save_every=1, log_every=2
    )
    assert len(watched.series("eval_loss")) == 6
    assert apart(watched.weights(), negative.weights()) == 0


def test_a_checkpoint_holds_the_adapter_and_not_the_base(nat):
    names = sorted(path.name for path in (nat.folder / "6").iterdir())
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"} <= set(names)
    assert "model.safetensors" not in names
    assert all(".nat_" in key for key in nat.weights())


def test_the_negative_side_is_bitwise_what_it_was(negative, nat):
    before, after = negative.weights(), nat.weights()
    for key, weights in before.items():
        layer, _, part = key.partition(".lora_")
        assert torch.equal(after[f"{layer}.nat_negative.{part[0]}"], weights)


@pytest.mark.parametrize("method", ["mix", "nt", "ul", "cl", "orpo", "nat-zero", "nat-double"])
def test_every_method_trains_an_adapter_that_loads(method, byte_model, lessons, tmp_path):
    examples = examples_of(lessons, byte_model, method)
    assert examples.num_rows == {"mix": 48, "nt": 48, "ul": 48}.get(method, 32)
    run = Run(tmp_path / "run", byte_model, method, examples, num_steps=2, save_every=2)
    base = AutoModelForCausalLM.from_pretrained(byte_model)
    model = PeftModel.from_pretrained(base, tmp_path / "run" / "2")
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        adapted = model(ids).logits
        run.trainer.model.eval()
        assert torch.allclose(adapted, run.trainer.model(ids).logits, atol=1e-5)
        with model.disable_adapter():
            assert not torch.allclose(adapted, model(ids).logits, atol=1e-6)


def test_micro_batches_add_up_to_the_batch(byte_model, lessons, tmp_path):
    examples = examples_of(lessons, byte_model, "nt")
    plan = replace(PLAN, dropout=0.0)
    runs = [
        Run(tmp_path / str(size), byte_model, "nt", examples, plan, micro_batch=size, num_steps=2, save_every=2)
        for size in (8, 3)
    ]
    for name in ("loss", "nll_right", "nll_wrong", "right_tokens", "grad_norm"):
        assert runs[0].series(name) == pytest.approx(runs[1].series(name), rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_options_of_cl_reach_its_loss(byte_model, lessons, tmp_path, weight):
    examples = examples_of(lessons, byte_model, "cl")
    series = {}
    for temperature in (0.5, 1.0):
        run = Run(
            tmp_path / str(temperature), byte_model, "cl", examples, num_steps=2, save_every=2,
            options=LossOptions(cl_temperature=temperature, likelihood_weight=weight),
        )  # fmt: skip
        loss, info_nce, nll = map(run.series, ("loss", "info_nce", "nll"))
        expected = [temperature * a + weight * b for a, b in zip(info_nce, nll, strict=True)]
        assert loss == pytest.approx(expected, rel=1e-4)
        series[temperature] = info_nce
    assert series[0.5][0] != pytest.approx(series[1.0][0], rel=1e-3)


def test_validation_is_the_loss_of_the_whole(byte_model, lessons, tmp_path):
    validation = examples_of(lessons, byte_model, "sft", "validation")
    assert validation.num_rows == 8
    examples = examples_of(lessons, byte_model, "sft")
    run = Run(
        tmp_path / "run",
        byte_model,
        "sft",
        examples,
        validation=validation,
        num_steps=1,
        learning_rate=0.0,
        save_every=1,
    )
    # With one micro-batch of everything, and a learning rate of 0, training sees the same loss.
    same = Run(tmp_path / "same", byte_model, "sft", validation, replace(PLAN, dropout=0.0), num_steps=1, micro_batch=8)
    assert run.series("eval_loss") == pytest.approx(same.series("loss"), rel=1e-5)


@pytest.mark.parametrize(("num_kept", "granularity"), [(0, "sequence"), (256, "sequence"), (256, "token")])
def test_a_teacher_computed_before_teaches_the_same(byte_model, lessons, nat, num_kept, granularity, tmp_path):
    plan = nce_plan(byte_model, nat, granularity)
    examples = examples_of(lessons, byte_model, "nce")
    precomputed = nce_logs(plan, Teacher(plan, num_kept)(examples), tmp_path / "precomputed")
    assert len(precomputed) == 6
    assert precomputed == pytest.approx(nce_logs(plan, examples, tmp_path / "online"), rel=1e-4)


def test_dropout_reaches_the_student_and_not_the_teacher(byte_model, lessons, nat, tmp_path):
    dropping = dropping_model(byte_model, tmp_path / "model")
    plan = nce_plan(dropping, nat, dropout=0.2)
    examples = examples_of(lessons, byte_model, "nce")
    online = nce_logs(plan, examples, tmp_path / "online")
    precomputed = nce_logs(plan, Teacher(plan, 256)(examples), tmp_path / "precomputed")
    assert precomputed == pytest.approx(online, rel=1e-4)
    still = nce_logs(nce_plan(byte_model, nat), examples, tmp_path / "still")
    assert online[0] != pytest.approx(still[0], rel=1e-3)  # the loss of the first step: the student's dropout
    assert online[2] == pytest.approx(still[2], rel=1e-4)  # beta


@pytest.mark.parametrize("is_training", [True, False])
def test_teaching_leaves_every_module_in_its_mode(byte_model, lessons, nat, tmp_path, is_training):
    plan = nce_plan(dropping_model(byte_model, tmp_path / "model"), nat)
    model = build_model(plan).train(is_training)
    model.get_input_embeddings().eval()
    before = [module.training for module in model.modules()]
    inputs = collate(examples_of(lessons, byte_model, "nce").slice(0, 2).to_pylist(), [0, 1], 0)
    first, second = (teach(model, inputs, plan.options) for _ in range(2))
    assert torch.equal(first.nat_logits, second.nat_logits)
    assert torch.equal(first.neg_logits, second.neg_logits)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("num_kept", [0, 16])
def test_betas_of_tokens_may_be_of_a_solution_with_one_scored_token(byte_model, lessons, nat, num_kept, tmp_path):
    plan = nce_plan(byte_model, nat, "token")
    rows = examples_of(lessons, byte_model, "nce").slice(0, 8).to_pylist()
    solution = rows[0]["solutions"][0]
    solution["num_prompt_tokens"] = len(solution["tokens"]) - 1
    rows[0]["num_tokens"] = 1  # so it comes first in its micro-batch
    examples = pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)
    taught = Teacher(plan, num_kept)(examples)
    assert len(taught["solutions"][0][0]["beta"]) == 1
    precomputed = nce_logs(plan, taught, tmp_path / "precomputed")
    online = nce_logs(plan, examples, tmp_path / "online")
    of_beta = slice(2, None, 3)
    assert precomputed[of_beta] == pytest.approx(online[of_beta], rel=1e-4)


def nce_plan(model, nat, granularity="sequence", dropout=0.0):
    """Two steps of NCE."""
    adapter = replace(PLAN, nat=str(nat.folder / "6"), dropout=dropout)
    return plan_of(
        "nce", model, adapter, LossOptions(kd_granularity=granularity),
        num_steps=2, batch_size=8, micro_batch=4, learning_rate=1e-3, warmup_steps=0, log_every=1, save_every=2,
    )  # fmt: skip


def nce_logs(plan, examples, folder):
    """Train. Returns loss, kd and beta of each step, in this order."""
    logs = []
    AdapterTrainer(plan, examples, folder, on_log=lambda step, logged: logs.append(logged)).train()
    return [each[name] for each in logs for name in ("loss", "kd", "beta") if name in each]


def dropping_model(byte_model, folder):
    """A copy of the byte model whose attention has dropout."""
    shutil.copytree(byte_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
    return str(folder)


def test_a_loss_that_is_not_finite_ends_training_before_the_adapter_has_it(byte_model, lessons, tmp_path):
    poisoned = AutoModelForCausalLM.from_pretrained(byte_model)
    shutil.copytree(byte_model, tmp_path / "model")
    with torch.no_grad():
        poisoned.get_input_embeddings().weight[200] = torch.nan  # a token that no text has
    poisoned.save_pretrained(tmp_path / "model")
    rows = examples_of(lessons, byte_model, "sft").to_pylist()
    order = StepSampler([row["num_tokens"] for row in rows], 8, 3, 6, seed=0)
    first = next(iter(list(order)[2 * 3]))  # of the third step
    assert first not in itertools.chain.from_iterable(list(order)[: 2 * 3])
    rows[first]["solutions"][0]["tokens"][-2] = 200
    examples = pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)
    with pytest.raises(
        NonFiniteLoss, match=f"step 3: the loss or its gradient is not finite on a micro-batch of .*{rows[first]['id']}"
    ):
        Run(tmp_path / "run", str(tmp_path / "model"), "sft", examples, save_every=1)
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != "work") == ["1", "2"]
    assert all(weights.isfinite().all() for weights in load_file(tmp_path / "run/2/adapter_model.safetensors").values())


def test_a_gradient_that_is_not_finite_ends_training_too(byte_model, lessons, tmp_path):
    examples = examples_of(lessons, byte_model, "sft")
    plan = plan_of(
        "sft", byte_model, PLAN, num_steps=3, batch_size=4, micro_batch=4, learning_rate=1e-3, warmup_steps=0
    )
    trainer = AdapterTrainer(plan, examples, tmp_path)
    trained = [each for each in trainer.model.parameters() if each.requires_grad]
    trained[0].register_hook(lambda gradient: gradient * torch.inf)
    before = [each.clone() for each in trained]
    with pytest.raises(NonFiniteLoss, match=r"step 1: .* is not finite on a micro-batch of"):
        trainer.train()
    assert all(torch.equal(one, other) for one, other in zip(before, trained, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nt", "nce"])
def test_two_ranks_are_as_one_and_a_base_in_parts_changes_nothing(method, byte_model, lessons, nat, tmp_path):
    examples = examples_of(lessons, byte_model, method).slice(0, 8)
    validation = examples_of(lessons, byte_model, method, "validation").slice(0, 3)
    plan = replace(PLAN, dropout=0.0, nat=str(nat.folder / "6") if method == "nce" else None)
    # Every step sees all eight examples, whoever has them: so the steps are the same.
    alone = Run(
        tmp_path / "alone", byte_model, method, examples, plan, validation=validation, num_steps=3, save_every=1,
        micro_batch=2,
    )  # fmt: skip
    (tmp_path / "plan").write_bytes(pickle.dumps(alone.plan))
    for name, table in (("examples", examples), ("validation", validation)):
        pq.write_table(table, tmp_path / name)
    settings = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.fixtures.two_ranks",
                *map(tmp_path.joinpath, ("plan", "examples", "validation", "")),
            ],
            env=settings | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = (rank.communicate(timeout=200)[0].splitlines() for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0]
    whole, parts = map(json.loads, first[:2])
    for name in ("loss", "grad_norm", "eval_loss", "num_tokens", "beta" if method == "nce" else "nll_right"):
        expected = alone.series(name)
        assert len(expected) == 3
        assert [each[name] for each in whole if name in each] == pytest.approx(expected, rel=1e-4)
        assert [each[name] for each in parts if name in each] == pytest.approx(expected, rel=1e-4)
    # A row of the second rank has no finite loss: both stop, and name it among its micro-batch.
    assert first[2:] == second
    _, _, named = second[0].partition("step 1: the loss or its gradient is not finite on a micro-batch of ")
    of_second = {row["id"] for row in examples.slice(4).to_pylist()}
    assert examples["id"][4].as_py() in named.split(", ")
    assert set(named.split(", ")) < of_second


def test_a_base_whose_files_contradict_its_config_is_not_sharded(byte_model, tmp_path):
    shutil.copytree(byte_model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    plan = plan_of(
        "sft", str(tmp_path / "model"), PLAN, num_steps=1, batch_size=1, micro_batch=1, learning_rate=1e-3,
        warmup_steps=0, sharding="fsdp",
    )  # fmt: skip
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match=r"cannot be sharded: .*; set tie_word_embeddings to false"):
            build_model(plan)
    finally:
        torch.distributed.destroy_process_group()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
