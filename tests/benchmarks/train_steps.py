"""The cost of a step of NAT and of NCE beside a step of a plain LoRA on the same batch, and the memory of their bases.

    python -m tests.benchmarks.train_steps

Measures forward, backward and optimizer of one micro-batch of SmolLM2-135M. The methods take turns; the median counts.
NCE is measured a second time with precomputed betas, and a third time with precomputed likeliest tokens as well.
"""

import argparse
import statistics
import tempfile
import time

import torch

from actors.models.source import ModelSource
from actors.training.teacher import Teacher
from actors.training.trainer import TrainingPlan, build_model
from algorithms.methods import METHODS, AdapterPlan, LossOptions
from algorithms.micro_batches import collate
from tests.benchmarks.measured import write_result
from tests.fixtures.rows import solution


def batch_of(num_sequences, num_tokens, vocab):
    """Examples of random tokens: the cost of a step does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(vocab, (num_sequences, num_tokens), generator=generator).tolist()
    return [
        {"num_tokens": num_tokens, "unused": None, "solutions": [solution(tokens, num_tokens // 3)]} for tokens in texts
    ]


def make_step(plan, examples):
    """A function that makes one optimizer step and returns its seconds, and the model."""
    method, model = METHODS[plan.method], build_model(plan)
    model.train()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-4)
    inputs = collate(examples, range(len(examples)), 0)
    inputs = {name: tensor.to(plan.device) for name, tensor in inputs.items()}
    model.to(plan.device)

    def step():
        started = time.perf_counter()
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.dtype == "bfloat16"):
            loss, _ = method.loss(model, inputs, plan.options, None)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if plan.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step, model


def base_megabytes(model):
    """The size of a model's weights without its adapters. Shared storage counts once."""
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for name, each in model.named_parameters(remove_duplicate=False)
        if ".lora_" not in name and ".nat_" not in name
    }
    return round(sum(storages.values()) / 2**20, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    model = ModelSource(options.model)
    dtype = "bfloat16" if options.device == "cuda" else "float32"

    def plan(method, **folders):
        adapter = AdapterPlan(**folders)
        return TrainingPlan(method, model, adapter, LossOptions(), 1, 1, 1, 1e-4, 0, device=options.device, dtype=dtype)

    with tempfile.TemporaryDirectory() as folder:
        build_model(plan("negative")).save_pretrained(f"{folder}/negative")
        nat = build_model(plan("nat", negative=f"{folder}/negative"))
        nat.save_pretrained(f"{folder}/nat")
        plain = batch_of(options.sequences, options.tokens, nat.get_input_embeddings().weight.shape[0])
        del nat
        nce = plan("nce", nat=f"{folder}/nat")
        cases = {
            "lora": (plan("sft"), plain),
            "nat": (plan("nat", negative=f"{folder}/negative"), plain),
            "nce": (nce, plain),
        }
        for name, num_kept in (("nce, beta precomputed", 0), ("nce, top 64 precomputed", 64)):
            taught = [dict(each) for each in batch_of(options.sequences, options.tokens, 1000)]
            for mine, given in zip(taught, plain, strict=True):
                mine["solutions"] = [dict(given["solutions"][0])]
            teacher = Teacher(nce, num_kept)
            teacher.teach([solution for each in taught for solution in each["solutions"]])
            cases[name] = (nce, taught)
        steps, bases = {}, {}
        for name, (each, examples) in cases.items():
            steps[name], built = make_step(each, examples)
            bases[name] = base_megabytes(built)
        seconds = {name: [] for name in cases}
        for round_number in range(options.rounds + 1):
            for name, step in steps.items():
                took = step()
                if round_number:  # the first one warms up
                    seconds[name].append(took)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    numbers = {
        "settings": vars(options) | {"dtype": dtype, "threads": torch.get_num_threads()},
        "seconds_per_step": {name: round(each, 4) for name, each in medians.items()},
        "over_lora": {name: round(each / medians["lora"], 3) for name, each in medians.items()},
        "megabytes_of_the_base": bases,
    }
    print(write_result("train_steps", numbers).read_text())


if __name__ == "__main__":
    main()
