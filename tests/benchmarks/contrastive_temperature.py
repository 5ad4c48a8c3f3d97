"""How hard CL pulls right solutions and pushes wrong ones at several temperatures, and when its InfoNCE saturates.

    python -m tests.benchmarks.contrastive_temperature

The embedded model reads GPT-3.5's samples on MATH: one right and three wrong ones of each question. It is measured
twice: as it is, and after a LoRA has learned the right solutions by heart (`sft`). The second state shows what CL does
when likelihood has little left to teach. It takes four minutes on two cores.

`push` is the norm of the gradient of temperature times InfoNCE with respect to a token's logits, summed over the wrong
tokens of an example. `pull` is the same for its right tokens, and `likelihood_pull` for the likelihood term at weight
1. All are means over the examples. On right tokens both terms have the same direction, so their norms add up:
`push_over_pull` divides push by pull + weight * likelihood_pull. `active` is the share of its largest gradient that
InfoNCE still has: 0 means saturated.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from actors.models.source import ModelSource
from actors.training.examples import LESSON_SCHEMA, MakeExamples
from actors.training.trainer import AdapterTrainer, TrainingPlan
from algorithms.formats import parse_record
from algorithms.grading import grade
from algorithms.losses.contrastive import contrastive
from algorithms.losses.examples import by_example
from algorithms.methods import METHODS, NUM_WRONG, AdapterPlan, LossOptions, forward, loss_batch
from algorithms.prompts import PromptStyle
from tests.benchmarks.measured import SHARED_DATA, write_result

METHOD = METHODS["cl"]
STYLE = PromptStyle("{question}\n")
# Layers of the upper third, of 30: gradients end there, so a step costs little more than a forward pass.
TARGETS = tuple(f"layers.{number}.self_attn.{name}" for number in range(20, 30) for name in ("q_proj", "v_proj"))


def examples_of(model, num_examples, max_tokens):
    """The first questions with a right and three different wrong samples that fit into `max_tokens`."""
    make = MakeExamples(METHOD.view, model, STYLE, max_tokens, False, 0)
    found = []
    for batch in pq.ParquetFile(SHARED_DATA / "math_teacher" / "gpt-3.5-turbo.parquet").iter_batches(32):
        for record in batch.to_pylist():
            lessons = lessons_of(parse_record(record, "tdg", {}, None))
            if lessons:
                made = make(pa.Table.from_pylist(lessons, schema=LESSON_SCHEMA))
                found += [row for row in made.to_pylist() if row["part"] == "train"]
            if len(found) == num_examples:
                return pa.Table.from_pylist(found, schema=made.schema)
    raise ValueError(f"only {len(found)} questions fit into --max-tokens {max_tokens}")


def lessons_of(problem):
    """One right and NUM_WRONG wrong samples of a problem as lessons, or none."""
    texts = {True: [], False: []}
    for text in dict.fromkeys(sample.text for sample in problem.samples):
        correct = grade(problem.question, problem.answer, text, last_number=problem.last_number).correct
        if correct is not None:
            texts[correct].append(text)
    if not texts[True] or len(texts[False]) < NUM_WRONG:
        return []
    chosen = [texts[True][0], *texts[False][:NUM_WRONG]]
    return [
        {"problem": problem.question, "id": f"{problem.question}#{number}", "question": problem.question}
        | {"text": text, "is_right": number == 0, "split": "train"}
        for number, text in enumerate(chosen)
    ]


def measure(model, examples, pad_id, temperatures, weights):
    """Likelihoods and gradients: means over the examples. One forward pass serves all temperatures."""
    model.eval()
    facts, forces = [], {temperature: [] for temperature in temperatures}
    for number, example in enumerate(examples.to_pylist()):
        inputs = METHOD.collate([example], [number], pad_id)
        batch = loss_batch(inputs)
        with torch.no_grad():
            logits = forward(model, inputs)
        logits.requires_grad_()
        scores = by_example(logits, batch).logprobs
        nll_right, nll_wrong = -scores[batch.is_right].mean(), -scores[~batch.is_right].mean()
        facts.append([nll_right.item(), nll_wrong.item(), norms(nll_right, logits)[batch.is_right].sum().item()])
        for temperature in temperatures:
            loss, metrics = contrastive(logits, batch, temperature=temperature, likelihood_weight=0.0)
            by_sequence = norms(loss, logits)
            push, pull = (by_sequence[which].sum().item() for which in (~batch.is_right, batch.is_right))
            share = math.exp(-metrics["info_nce"])  # of the right one in the softmax
            forces[temperature].append([push, pull, 1 - share])
    found = dict(zip(("nll_right", "nll_wrong", "likelihood_pull"), means(facts), strict=True))
    for temperature, each in forces.items():
        push, pull, active = means(each)
        found[f"temperature {temperature:g}"] = {"push": round(push, 4), "pull": round(pull, 4)} | {
            "push_over_pull": {
                f"weight {weight:g}": round(push / (pull + weight * found["likelihood_pull"]), 3) for weight in weights
            },
            "active": round(active, 4),
        }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def norms(loss, logits):
    """The norm of the gradient at each token, summed over the tokens of a sequence."""
    [gradient] = torch.autograd.grad(loss, logits)
    return gradient.norm(dim=-1).sum(1)


def means(rows):
    return [statistics.mean(column) for column in zip(*rows, strict=True)]


def only_right(examples):
    """The examples without their wrong solutions."""
    rows = [row | {"solutions": row["solutions"][:1]} for row in examples.to_pylist()]
    return pa.Table.from_pylist(rows, schema=examples.schema)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=24)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.5, 0.2, 0.1, 0.05])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 1.0, 3.0])
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    options = parser.parse_args()
    started = time.perf_counter()
    source = ModelSource("smollm2")
    examples = examples_of(source, options.examples, options.max_tokens)
    plan = TrainingPlan(
        method="sft", model=source, adapter=AdapterPlan(dropout=0.0, targets=TARGETS), options=LossOptions(),
        num_steps=options.steps, batch_size=options.batch_size, micro_batch=options.batch_size,
        learning_rate=options.learning_rate, warmup_steps=0, log_every=10**6, save_every=10**6,
    )  # fmt: skip
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = AdapterTrainer(plan, only_right(examples), Path(folder))
        for name, prepare in (("as it is", lambda: None), ("after sft on the right solutions", trainer.train)):
            prepare()
            results[name] = measure(trainer.model, examples, source.pad_id, options.temperatures, options.weights)
            print(name, results[name], f"{time.perf_counter() - started:.0f} s", flush=True)
    numbers = {
        "settings": vars(options) | {"threads": torch.get_num_threads()},
        "seconds": round(time.perf_counter() - started, 1),
        "model": results,
    }
    print(write_result("contrastive_temperature", numbers).read_text())


if __name__ == "__main__":
    main()
