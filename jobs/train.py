"""Train an adapter: SFT, ORPO, and from wrong answers too: NAT, NCE and their rivals.

    python -m jobs.train --method sft --data data/gsm8k-refined --output runs/sft
    python -m jobs.train --method negative --data runs/graded --output runs/neg
    python -m jobs.train --method nat --data runs/graded --negative runs/neg --output runs/nat
    python -m jobs.train --method nce --data runs/graded runs/self-graded --nat runs/nat --output runs/nce

NAT is Negative Assistant Training, NCE Negative Calibrated Enhancement (arXiv 2312.12832). --data takes runs of
jobs.grade and jobs.refine, exports of jobs.export, and files with prompt and completion, with messages, or with
prompt, chosen and rejected. OUTPUT/adapter is what PEFT loads. The same command goes on with a run that was killed.
"""

import contextlib
import math
import os
import sys
import time
from dataclasses import asdict, replace
from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from actors.adapter_trainer import TrainingPlan
from actors.complaint import Complaint
from actors.corpus import Corpus
from actors.ledger import SESSION_FILE, check_session
from actors.models import ADAPTER_FOLDER, check_learnable, check_model, check_targets, empty_model
from actors.storage import Storage
from actors.training import METRICS_FILE
from algorithms.losses.negative_calibrated import Direction, Granularity
from algorithms.methods import METHODS, OWN_SETTINGS, AdapterPlan, LossOptions
from algorithms.prompts import INSTRUCTION, PromptStyle
from jobs.driver import (
    adapters,
    cluster,
    command,
    inputs,
    manifest,
    model_card,
    pipeline,
    report,
    training_data,
    training_run,
)
from jobs.driver.command import JobConfig, UserError
from jobs.driver.progress import Progress
from jobs.driver.templates import read_template
from jobs.driver.training_run import StepsLine, Workers

JOB: Final = "train"
FIRST: Final = {  # an adapter that a method begins from -> how to have one
    "negative": "first train one on the wrong solutions of the same data, --method negative",
    "nat": "first train the teacher, --method nat",
}
READ_SLOTS: Final = 3


class TrainConfig(JobConfig):
    """Flags of `jobs.train`."""

    method: str
    """sft, orpo; negative (LoRA_neg), nat, nce; mix, nt, ul, cl (rivals); nat-zero, nat-double (controls)."""
    data: tuple[str, ...] = Field(min_length=1)
    """What to train on: runs, files, folders or globs; paths or URIs."""
    output: str
    """Folder of the run, a path or URI. The same command goes on with an unfinished run."""
    model: str = "smollm2"
    """smollm2 (embedded), a model folder or a hub name."""
    negative: str | None = None
    """For nat: the run of --method negative, or a folder with a LoRA trained on wrong solutions."""
    nat: str | None = None
    """For nce: the run of --method nat, or its adapter."""
    rank: int = Field(default=8, ge=1)
    """Rank of the LoRA."""
    alpha: float = Field(default=16.0, gt=0)
    """The LoRA's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Of what goes into the LoRA."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Names of the linear layers that are adapted."""
    gate_dim: int = Field(default=128, ge=1)
    """Width of NAT's Integrate Unit."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the examples."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps, in place of --epochs."""
    batch_size: int = Field(default=32, ge=1)
    """Examples of an optimizer step, over all workers."""
    micro_batch: int = Field(default=8, ge=1)
    """Examples of one forward pass of a worker; the rest is accumulated."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """At its highest."""
    warmup: float = Field(default=0.05, ge=0)
    """Steps until then, or below 1 the share of all steps."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """How the learning rate falls."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Longer gradients are shortened to it; 0 leaves them."""
    max_tokens: int = Field(default=1024, ge=2)
    """Longer examples are left out, and counted."""
    loss_on_prompt: bool = False
    """Learn the prompt too."""
    template: str | None = None
    """A prompt text with {question} in it, or a file that holds one, in place of the model's chat template."""
    instruction: str = INSTRUCTION
    """Stands below each question in the chat template; "" for none. As in jobs.sample."""
    negative_weight: float = Field(default=0.05, ge=0)
    """nt, ul: how much wrong solutions weigh."""
    cl_temperature: float = Field(default=1.0, gt=0)
    """cl: of the likelihoods that are set against each other."""
    orpo_lambda: float = Field(default=0.1, ge=0)
    """orpo: how much the odds weigh."""
    kd_direction: Direction = "neg_nat"
    """nce: KL of the negative model from NAT, or the other way."""
    kd_granularity: Granularity = "sequence"
    """nce: one beta for a solution, or one for each token."""
    kd_temperature: float = Field(default=1.0, gt=0)
    """nce: of the teacher and the student."""
    precompute: Literal["none", "beta", "top-k"] = "none"
    """nce: compute once, before training: beta (a step runs one forward less), or the teacher's likeliest tokens
    too (two less)."""
    top_k: int = Field(default=64, ge=1)
    """nce: how many of them."""
    num_workers: str = "1"
    """Workers: N, or MIN:MAX to use what the cluster has."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs of each worker."""
    cpus_per_worker: float | None = Field(default=None, gt=0)
    """CPU slots, and threads, of each worker. By default 1 on a cluster; locally the workers share the cores."""
    max_failures: int = Field(default=3, ge=0)
    """How often workers may die before the run stops."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base model. auto: bfloat16 on a GPU, float32 on a CPU. Adapters are float32 always."""
    gradient_checkpointing: bool = False
    """Compute activations twice rather than keep them."""
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp: every worker holds a part of the base, for one that does not fit."""
    seed: int = 0
    """Of the adapter's beginning, the order of the examples and dropout."""
    log_every: int = Field(default=10, ge=1)
    """Steps between two lines of metrics."""
    save_every: int = Field(default=100, ge=1)
    """Steps between two checkpoints; validation runs with them."""

    _check_num_workers = field_validator("num_workers")(pipeline.check_range)

    @field_validator("method")
    @classmethod
    def _check_method(cls, value: str) -> str:
        if value not in METHODS:
            raise ValueError(f"must be one of {', '.join(METHODS)}")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> "TrainConfig":
        for name in sorted(OWN_SETTINGS.difference(METHODS[self.method].own_settings)):
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if getattr(self, name) != default:
                flag = "--" + name.replace("_", "-")
                owners = " and ".join(owner for owner, method in METHODS.items() if name in method.own_settings)
                raise ValueError(f"{flag} does nothing with --method {self.method}: it is for {owners}")
        for name in METHODS[self.method].needs:
            if getattr(self, name) is None:
                raise ValueError(f"--method {self.method} needs --{name}: {FIRST[name]}")
        if self.precompute != "top-k" and self.top_k != type(self).model_fields["top_k"].default:
            raise ValueError("--top-k does nothing without --precompute top-k")
        if self.template is not None and self.instruction != INSTRUCTION:
            raise ValueError("--instruction does nothing with --template: write it into the template")
        if self.sharding == "fsdp" and self.worker_range[0] < 2:
            raise ValueError("--sharding fsdp shares the base between workers: --num-workers must be 2 or more")
        return self

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the workers' models live."""
        return "cuda" if self.gpus_per_worker else "cpu"

    @property
    def worker_range(self) -> tuple[int, int]:
        """Workers at least and at most."""
        return pipeline.range_of(self.num_workers)

    @property
    def threads_per_worker(self) -> int | None:
        """Threads of a worker on a CPU; None leaves it to the machine it lands on."""
        return pipeline.threads_each(self.cpus_per_worker, self.worker_range[1])


def main() -> None:
    """Entry point of `python -m jobs.train`."""
    command.main(TrainConfig, run, __doc__ or "")


def run(config: TrainConfig) -> int:
    """Train, or go on training; the exit status."""
    corpora = tuple(inputs.list_corpus("--data", uri) for uri in config.data)
    output = pipeline.open_output(config.output)
    identity, adapter = _identity(config, corpora)
    record = manifest.open_run(output, JOB, identity, config.model_dump(mode="json"), pipeline.command_line())
    if record.status == "finished":
        print(f"{config.output} is finished already")
        return _close(config, output, record)
    session = record.sessions[-1].name
    print(f"training ({config.method}) {config.model} on {', '.join(config.data)} -> {config.output}", flush=True)
    least, most = config.worker_range
    workers = Workers(least, most, config.cpus_per_worker or 1, config.gpus_per_worker, config.max_failures)
    with cluster.connect(max(os.cpu_count() or 1, math.ceil(most * workers.cpus)) + READ_SLOTS) as joined:
        _check_resources(workers, joined)
        pipeline.begin_session(output, session)
        try:
            counts = _examples(config, corpora, output, adapter)
        except UserError:
            _take_back(output, session)
            raise
        if counts.train < least:
            raise UserError(f"{least} workers want an example each, and there are {counts.train}: lower --num-workers")
        plan = _plan(config, adapter, counts.train)
        print(f"{counts.train:,} examples, {plan.num_steps:,} steps; workers are starting", flush=True)
        workers = replace(workers, most=min(most, counts.train))  # one without an example could do nothing
        with Progress(StepsLine(output, plan)):
            stopped = training_run.fit(plan, workers, output, session, counts.sizes)
    if stopped is not None:
        print(f"{JOB}: stopped at {stopped}", file=sys.stderr)
        report.write_report(output, record)
        training_run.write_events(output)
        return 1
    record.status = "finished"
    record.totals = asdict(counts)
    record.sessions[-1].finished_at = time.time()
    record.save(output)
    (output / SESSION_FILE).delete_file()
    (output / training_run.STATE_FOLDER).delete_folder()
    return _close(config, output, record)


def _take_back(output: Storage, session: str) -> None:
    """A run without examples has done nothing: the mended command, on other data, may have its folder."""
    of_training = METRICS_FILE, training_run.STATE_FOLDER
    with contextlib.suppress(OSError, Complaint):
        check_session(output, session)
        if any((output / name).exists() for name in of_training):
            return
        (output / training_data.FOLDER).delete_folder()
        (output / SESSION_FILE).delete_file()
        (output / manifest.NAME).delete_file()


def _identity(config: TrainConfig, corpora: tuple[Corpus, ...]) -> tuple[dict[str, Any], AdapterPlan]:
    """What decides the adapter, and what is added to the model. Raises UserError for what does not fit."""
    try:
        model = check_model(config.model, chat=config.template is None)
        check_targets(config.model, config.targets)
        check_learnable(config.model, config.max_tokens)
    except ValueError as error:
        raise UserError(str(error)) from None
    folders, begins = {}, {}
    for name, kind in (("negative", "LORA"), ("nat", "NAT")):
        path = getattr(config, name)
        if path is None:
            continue
        folders[name], begins[name] = adapters.find(f"--{name}", path, config.model)
        if begins[name]["kind"] != kind:
            raise UserError(f"--{name} {path} is an adapter of kind {begins[name]['kind']}, not {kind}")
        adapters.check_base(f"--{name}", folders[name], begins[name]["base"], model)
    adapter = AdapterPlan(config.rank, config.alpha, config.dropout, config.targets, config.gate_dim, **folders)
    try:
        METHODS[config.method].build(empty_model(config.model), adapter)
    except ValueError as error:  # layers that one adapter has and the other has not
        raise UserError(str(error)) from None
    training = (
        "epochs", "max_steps", "batch_size", "micro_batch", "learning_rate", "warmup", "schedule", "weight_decay",
        "max_grad_norm", "max_tokens", "loss_on_prompt", "precompute", "top_k", "sharding", "seed",
    )  # fmt: skip
    identity: dict[str, Any] = {
        "method": config.method,
        "data": [inputs.fingerprint(corpus) for corpus in corpora],
        "model": {**model, "dtype": pipeline.resolve_dtype(config.dtype, config.device)},
        "adapter": {name: value for name, value in asdict(adapter).items() if name not in ("negative", "nat")},
        "loss": asdict(_options(config)),
        "training": {name: getattr(config, name) for name in training},
        "prompt": asdict(_style(config)),
        **begins,
    }
    return identity, adapter


def _style(config: TrainConfig) -> PromptStyle:
    return PromptStyle(read_template(config.template), config.instruction)


def _options(config: TrainConfig) -> LossOptions:
    return LossOptions(
        config.negative_weight,
        config.cl_temperature,
        config.orpo_lambda,
        config.kd_direction,
        config.kd_granularity,
        config.kd_temperature,
    )


def _examples(
    config: TrainConfig, corpora: tuple[Corpus, ...], output: Storage, adapter: AdapterPlan
) -> training_data.ExampleCounts:
    """The examples, made or found. Raises UserError where there are none to train on."""
    plan = training_data.ExamplePlan(
        config.method,
        config.model,
        _style(config),
        config.max_tokens,
        config.loss_on_prompt,
        config.seed,
    )
    teach = None
    if config.precompute != "none":
        from ray.data import ActorPoolStrategy

        least, most = config.worker_range
        teach = {
            "fn_constructor_args": (_plan(config, adapter, 1), config.top_k if config.precompute == "top-k" else 0),
            "compute": ActorPoolStrategy(min_size=least, max_size=most),
            "num_cpus": config.cpus_per_worker or 1,
            "num_gpus": config.gpus_per_worker or None,
        }
    counts = training_data.prepare(corpora, plan, output, teach)
    if counts.train == 0:
        why = ", ".join(f"{count:,} {reason}" for reason, count in counts.unused.items()) or "no rows"
        raise UserError(
            f"--data has nothing for --method {config.method} ({METHODS[config.method].what}) to train on: {why}"
        )
    return counts


def _plan(config: TrainConfig, adapter: AdapterPlan, num_examples: int) -> TrainingPlan:
    steps = config.max_steps or max(1, math.ceil(config.epochs * num_examples / config.batch_size))
    return TrainingPlan(
        method=config.method,
        model=config.model,
        adapter=adapter,
        options=_options(config),
        num_steps=steps,
        batch_size=config.batch_size,
        micro_batch=config.micro_batch,
        learning_rate=config.learning_rate,
        warmup_steps=int(config.warmup if config.warmup >= 1 else config.warmup * steps),
        schedule=config.schedule,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        log_every=config.log_every,
        save_every=config.save_every,
        device=config.device,
        dtype=pipeline.resolve_dtype(config.dtype, config.device),
        num_threads=config.threads_per_worker,
        gradient_checkpointing=config.gradient_checkpointing,
        sharding=config.sharding,
    )


def _check_resources(workers: Workers, joined: cluster.Cluster) -> None:
    """A worker group that can never start would wait for ever. Raises UserError on a cluster that cannot grow."""
    asked = {"CPU": workers.least * workers.cpus, "GPU": workers.least * workers.gpus}
    for name, amount in asked.items():
        has = joined.resources.get(name, 0.0)
        if name == "CPU" and joined.is_local:
            has = min(has, os.cpu_count() or 1)  # a local Ray offers a few slots more, for data
        if amount <= has:
            continue
        told = f"{workers.least} workers ask for {amount:g} {name}s, "
        if joined.is_local:
            raise UserError(f"{told}this machine has {has:g}: lower --num-workers or join a cluster (RAY_ADDRESS)")
        print(f"{told}the cluster has {has:g} now: waiting for it to grow", file=sys.stderr)


def _close(config: TrainConfig, output: Storage, record: manifest.Manifest) -> int:
    """Report, model card, TensorBoard events and summary."""
    facts = report.write_report(output, record)
    model_card.write(output, facts, record)
    training_run.write_events(output)
    print(report.summary(facts, config.output, record))
    print(f"adapter     {config.output.rstrip('/')}/{ADAPTER_FOLDER}")
    return 0


if __name__ == "__main__":
    main()
