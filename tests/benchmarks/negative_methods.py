"""The accuracy of every training method on one generated task, with small models trained from scratch.

    python -m tests.benchmarks.negative_methods --folder runs/negative_methods

Two three-layer Llamas learn from scratch, but not to perfection, to compute chains of two additions, subtractions or
products step by step. The student learns questions that list the operations in order, the teacher questions that list
them backwards. The task is the backward questions: the student can compute, but does not know the task. The teacher
answers each question eight times, and its answers are graded. From them every method trains an adapter of the student,
with the same steps, batch size and learning rate. The score is the accuracy of greedy answers to held-out questions.
The seeds share nothing.

The controls: `nat-zero`, NAT's layers with a negative side of zero; `nat-double`, two LoRAs on right answers; `sft
r=64`, a plain LoRA with about as many trained parameters as NAT. Self-enhancement: `nce+self` trains on right answers
that NAT samples as well, and `sft+self` on right answers that `sft` samples.

Other runs vary what might hide an effect of LoRA_neg: the learning rate, and three times as many questions. `nat, B_n
= 0` is a trained NAT without its negative side.

Models and adapters stay in the folder. Repeat the command to resume. Each set of settings needs a folder of its own.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from actors.engines.protocol import SampleRequest
from actors.engines.transformers import TransformersEngine
from actors.models.source import ModelSource
from actors.training.examples import LESSON_SCHEMA, MakeExamples
from actors.training.trainer import AdapterTrainer, TrainingPlan, build_model
from algorithms.grading import grade
from algorithms.methods import METHODS, AdapterPlan, LossOptions
from algorithms.prompts import PromptStyle
from algorithms.sampling import SamplingParams, sample_seed
from tests.benchmarks.measured import write_result

STYLE = PromptStyle("{question}\n")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MORE = 3
OTHER_RATES = (1e-3, 1e-2)
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, by number of seeds


def forwards(chooser):
    """A problem as the student learns it: question, solution and answer."""
    operations = chain(chooser)
    question = str(operations[0][0]) + "".join(f" then {sign}{other}" for _, sign, other, _ in operations)
    return question, *solved(operations)


def backwards(chooser):
    """A problem of the task: its question lists the last operation first."""
    operations = chain(chooser)
    question = "".join(f"{sign}{other} hen " for _, sign, other, _ in reversed(operations)) + str(operations[0][0])
    return question, *solved(operations)


def solved(operations):
    """Operations (value, sign, other, result) as a solution and its answer."""
    lines = [f"{value}{sign}{other}={result}" for value, sign, other, result in operations]
    answer = str(operations[-1][-1])
    return "\n".join([*lines, f"#### {answer}"]), answer


def chain(chooser):
    """Two operations, the second on the result of the first."""
    value, operations = chooser.randint(2, 99), []
    for _ in range(2):
        sign = chooser.choice("+-*")
        other = chooser.randint(2, 9) if sign == "*" else chooser.randint(2, 99)
        result = {"+": value + other, "-": value - other, "*": value * other}[sign]
        operations.append((value, sign, other, result))
        value = result
    return operations


def problems(seed, count):
    chooser = random.Random(seed)
    return [backwards(chooser) for _ in range(count)]


def save_tokenizer(folder):
    letters = sorted({*"0123456789+-*=#. then", "\n", "|"})
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="|", pad_token="|").save_pretrained(folder)
    return len(letters)


def pretrain(folder, seed, num_steps, make):
    """Train all parameters of a new model on fresh problems in each step. Does nothing if the model exists."""
    if (Path(folder) / "model.safetensors").exists():
        return
    vocab = save_tokenizer(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    torch.manual_seed(random.Random(seed).getrandbits(32))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=num_steps)
    chooser = random.Random(f"pretrain {seed}")
    for _ in range(num_steps):
        texts = [f"{question}\n{solution}|" for question, solution, _ in (make(chooser) for _ in range(64))]
        batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)


def answers(model, adapter, questions, num_samples, temperature, seed):
    """Texts of `num_samples` answers to each question."""
    params = SamplingParams(temperature, max_tokens=48)
    engine = TransformersEngine(ModelSource(model), max_batch=256, adapter=adapter)

    async def ask():
        requests = [
            SampleRequest(STYLE.prompt(question), replace(params, seed=sample_seed(seed, question, index)))
            for question in questions
            for index in range(num_samples)
        ]
        return await asyncio.gather(*map(engine.sample, requests))

    texts = [sample.text for sample in asyncio.run(ask())]
    return [texts[first : first + num_samples] for first in range(0, len(texts), num_samples)]


def graded(model, adapter, some, seed, name):
    """Sampled answers as lessons, right or wrong. Equal answers to a question count once."""
    rows = []
    for (question, _, gold), texts in zip(
        some, answers(model, adapter, [each[0] for each in some], 8, 1.0, seed), strict=True
    ):
        for index, text in enumerate(dict.fromkeys(texts)):
            correct = grade(question, gold, text, last_number=False).correct
            if text.strip():
                rows.append(
                    {"problem": question, "id": f"{name}:{question}#{index}", "question": question, "text": text}
                    | {"is_right": bool(correct), "split": "train"}
                )
    return rows


def accuracy(model, adapter, some):
    right = [
        grade(question, gold, texts[0], last_number=False).correct is True
        for (question, _, gold), texts in zip(
            some, answers(model, adapter, [each[0] for each in some], 1, 0.0, 0), strict=True
        )
    ]
    return sum(right) / len(right)


def train(model, method, rows, folder, adapter, num_steps, seed, learning_rate):
    """Train a method's adapter unless it exists. Returns its folder and the number of trained parameters."""
    table = MakeExamples(METHODS[method].view, ModelSource(model), STYLE, 200, False, seed)(
        pa.Table.from_pylist(rows, schema=LESSON_SCHEMA)
    )
    examples = table.filter(pc.equal(table["part"], "train")).sort_by("place")
    plan = TrainingPlan(
        method=method, model=ModelSource(model), adapter=adapter, options=LossOptions(), num_steps=num_steps,
        batch_size=32, micro_batch=32, learning_rate=learning_rate, warmup_steps=10,
        seed=seed, log_every=10**6, save_every=10**6,
    )  # fmt: skip
    adapter = Path(folder) / f"checkpoint-{num_steps}"
    if not (adapter / "trainer_state.json").exists():  # the last file of a checkpoint
        AdapterTrainer(plan, examples, Path(folder)).train()
    return str(adapter), sum(each.numel() for each in build_model(plan).parameters() if each.requires_grad)


def without_negative(adapter, folder):
    """A copy of a trained NAT whose negative side adds nothing."""
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    file = Path(folder) / "adapter_model.safetensors"
    weights = load_file(file)
    negative = {name: torch.zeros_like(each) for name, each in weights.items() if name.endswith("nat_negative.B")}
    assert negative, "an adapter with a negative side"
    save_file(weights | negative, file, metadata={"format": "pt"})
    return str(folder)


def one_seed(seed, options, root):
    """The accuracies of all methods for one seed, the number of right and wrong lessons, and trained parameters."""
    torch.set_num_threads(1)
    root.mkdir(parents=True, exist_ok=True)
    teacher, base = str(root / "teacher"), str(root / "student")
    pretrain(teacher, seed, options.teacher_steps, backwards)
    pretrain(base, f"student {seed}", options.student_steps, forwards)
    held_out = problems(f"held out {seed}", options.held_out)
    asked = problems(f"train {seed}", options.questions * MORE)
    all_rows = graded(teacher, None, asked, seed, "teacher")
    few = {question for question, _, _ in asked[: options.questions]}
    rows = [row for row in all_rows if row["question"] in few]
    scores = {"teacher": accuracy(teacher, None, held_out), "student": accuracy(base, None, held_out)}
    num_right = sum(row["is_right"] for row in rows)
    facts = {"right": num_right, "wrong": len(rows) - num_right}
    print(f"seed {seed}", scores, facts, flush=True)
    plan = AdapterPlan(r=8, alpha=16.0, dropout=0.05, targets=TARGETS, gate_dim=32)
    folders, sizes = {}, {}

    def run(name, method, data, adapter, learning_rate=options.learning_rate):
        started = time.perf_counter()
        folders[name], sizes[name] = train(base, method, data, root / name, adapter, options.steps, seed, learning_rate)
        scores[name] = accuracy(base, folders[name], held_out)
        print(f"seed {seed} {name:20} {scores[name]:.3f}  {time.perf_counter() - started:.0f} s", flush=True)

    run("negative", "negative", rows, plan)
    over_negative = replace(plan, negative=folders["negative"])
    for name in ("sft", "mix", "nt", "ul", "cl", "nat-zero", "nat-double"):
        run(name, name, rows, plan)
    run("sft r=64", "sft", rows, replace(plan, r=64, alpha=128.0))
    run("nat", "nat", rows, over_negative)
    scores["nat, B_n = 0"] = accuracy(base, without_negative(folders["nat"], root / "nat without"), held_out)
    run("nce", "nce", rows, replace(plan, nat=folders["nat"]))
    for name, sampler in (("sft", "sft"), ("nce", "nat")):
        few_asked = asked[: options.questions]
        more = [row for row in graded(base, folders[sampler], few_asked, seed + 1000, "self") if row["is_right"]]
        known = {(row["question"], row["text"]) for row in rows}
        more = [row for row in more if (row["question"], row["text"]) not in known]
        facts[f"self_{sampler}"] = len(more)
        run(f"{name}+self", name, rows + more, replace(plan, nat=folders["nat"]) if name == "nce" else plan)
    for rate in OTHER_RATES:
        run(f"sft, rate {rate:g}", "sft", rows, plan, rate)
        run(f"nat, rate {rate:g}", "nat", rows, over_negative, rate)
    run(f"negative, questions x{MORE}", "negative", all_rows, plan)
    over_negative = replace(plan, negative=folders[f"negative, questions x{MORE}"])
    for name, adapter in (("sft", plan), ("mix", plan), ("nat-zero", plan), ("nat", over_negative)):
        run(f"{name}, questions x{MORE}", name, all_rows, adapter)
    return scores, facts, sizes


def interval(values):
    """The mean and half the width of its 95% interval."""
    if len(values) < 2:
        return [round(values[0], 4), None]
    return [
        round(statistics.mean(values), 4),
        round(T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5, 4),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher-steps", type=int, default=1500)
    parser.add_argument("--student-steps", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    settings = {name: value for name, value in vars(options).items() if name not in ("folder", "seeds", "processes")}
    made_with = options.folder / "settings.json"
    options.folder.mkdir(parents=True, exist_ok=True)
    if made_with.exists() and json.loads(made_with.read_text()) != settings:
        parser.error(f"{options.folder} holds adapters made with {made_with.read_text()}: choose another folder")
    made_with.write_text(json.dumps(settings))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, spawn) as pool:
        running = [pool.submit(one_seed, seed, options, options.folder / str(seed)) for seed in range(options.seeds)]
        runs = [each.result() for each in running]
    methods = {
        name: {
            "accuracy": interval([scores[name] for scores, _, _ in runs]),
            "over_sft": interval([scores[name] - scores["sft"] for scores, _, _ in runs]),
            "trained_parameters": runs[0][2].get(name),
            "by_seed": [scores[name] for scores, _, _ in runs],
        }
        for name in runs[0][0]
    }
    numbers = {
        "settings": settings | {"seeds": options.seeds},
        "data": [facts for _, facts, _ in runs],
        "methods": methods,
    }
    print(write_result("negative_methods", numbers).read_text())


if __name__ == "__main__":
    main()
