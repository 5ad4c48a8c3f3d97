"""Train an adapter: SFT, ORPO, and methods that learn from wrong answers too, such as NAT and NCE. Or a ranker.

    python -m jobs.train --method sft --data data/refined --output runs/sft
    python -m jobs.train --method negative --data runs/graded --output runs/neg
    python -m jobs.train --method nat --data runs/graded --negative runs/neg --output runs/nat
    python -m jobs.train --method nce --data runs/graded runs/self-graded --nat runs/nat --output runs/nce
    python -m jobs.train --method ranker --data runs/graded --output runs/ranker
    python -m jobs.train --method ranker-encoder --data runs/graded --model minilm --output runs/encoder

NAT is Negative Assistant Training, NCE Negative Calibrated Enhancement (arXiv 2312.12832). --data takes runs of
jobs.grade and jobs.refine, exports of jobs.export, and files with prompt and completion, with messages, or with
prompt, chosen and rejected. PEFT loads OUTPUT/adapter. Repeat the command to resume a run.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from actors.errors import UserError
from actors.models import trained
from actors.models.checks import CheckedModel, check_learnable, check_model, check_targets
from actors.models.source import resolve_dtype
from actors.runs import manifest
from actors.runs.corpus import Corpus
from actors.runs.folder import ADAPTER, RunFolder, open_run_folder
from actors.runs.session import begin_session, check_session
from actors.training.trainer import TrainingPlan
from algorithms.losses.negative_calibrated import Direction, Granularity
from algorithms.methods import METHODS, OWN_SETTINGS, AdapterPlan, LossOptions
from algorithms.prompts import INSTRUCTION, PromptStyle
from jobs.driver import (
    cluster,
    command,
    corpus_run,
    encoder_training,
    inputs,
    ranker_training,
    training_data,
    training_fit,
)
from jobs.driver.command import JobConfig, choice, command_line, listed
from jobs.driver.encoder_training import EncoderConfig
from jobs.driver.progress import Progress
from jobs.driver.prompts import check_instruction, prompt_style
from jobs.driver.ranker_training import RankerConfig
from jobs.driver.training_fit import StepsLine, Workers
from jobs.reports import model_card, page

JOB: Final = "train"
STARTING_ADAPTERS: Final = {  # flag -> kind of adapter, and how to make one
    "negative": ("LORA", "first train one on the wrong solutions of the same data, --method negative"),
    "nat": ("NAT", "first train the teacher, --method nat"),
}
# method -> its config, what runs it, and what it is
RANKERS: Final[dict[str, tuple[type[Any], Callable[[Any], int], str]]] = {
    ranker_training.METHOD: (RankerConfig, ranker_training.run, ranker_training.WHAT),
    encoder_training.METHOD: (EncoderConfig, encoder_training.run, encoder_training.WHAT),
}
READ_SLOTS: Final = 3
PLAN_FLAGS: Final = (  # fields of TrainingPlan with the value of their flag
    "method", "batch_size", "micro_batch", "learning_rate", "schedule", "weight_decay", "max_grad_norm", "seed",
    "log_every", "save_every", "gradient_checkpointing", "sharding",
)  # fmt: skip


class TrainConfig(JobConfig):
    """Flags of `jobs.train`."""

    method: Annotated[str, choice((*METHODS, *RANKERS))] = Field(
        description=listed(
            "What to train, and on what. --method NAME --help lists the flags of a ranker.",
            {name: method.what for name, method in METHODS.items()}
            | {name: what for name, (*_, what) in RANKERS.items()},
        )
    )
    data: tuple[str, ...] = Field(min_length=1)
    """What to train on: runs, files, folders or globs, as paths or URIs."""
    output: str
    """Folder of the run, a path or URI. Repeat the command to resume an unfinished run."""
    model: str = "smollm2"
    """smollm2 (embedded), a model folder or a hub name."""
    negative: str | None = None
    """nat: the run of --method negative, or a folder with a LoRA trained on wrong solutions."""
    nat: str | None = None
    """nce: the run of --method nat, or its adapter."""
    rank: int = Field(default=8, ge=1)
    """Rank of the LoRA."""
    alpha: float = Field(default=16.0, gt=0)
    """The LoRA's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the LoRA's input."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Names of the linear layers to adapt."""
    gate_dim: int = Field(default=128, ge=1)
    """nat, nat-zero, nat-double: width of NAT's Integrate Unit."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the examples."""
    max_steps: int | None = Field(default=None, ge=1)
    """Number of optimizer steps, instead of --epochs."""
    batch_size: int = Field(default=32, ge=1)
    """Examples in an optimizer step, over all workers."""
    micro_batch: int = Field(default=8, ge=1)
    """Examples in one forward pass of a worker. Gradients of the others are accumulated."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak learning rate."""
    warmup: float = Field(default=0.05, ge=0)
    """Warm-up steps; a value below 1 is a fraction of all steps."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """Schedule of the learning rate after the warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Clip gradients to this norm. 0: no clipping."""
    max_tokens: int = Field(default=1024, ge=2)
    """Longer examples are left out and counted."""
    loss_on_prompt: bool = False
    """Train on the prompt's tokens too."""
    template: str | None = None
    """Prompt text with {question} in it, or a file with such a text, instead of the model's chat template."""
    instruction: str = INSTRUCTION
    """Text below each question in the chat template. "" for none. As in jobs.sample."""
    negative_weight: float = Field(default=0.05, ge=0)
    """nt, ul: weight of wrong solutions. The loss of nt has no lower bound: it keeps falling as wrong solutions become
    impossible, until the model writes nonsense. Keep this weight and --learning-rate low, and --max-steps few."""
    cl_temperature: float = Field(default=0.1, gt=0)
    """cl: temperature of InfoNCE. The lower it is, the sooner InfoNCE leaves wrong solutions alone that are less likely
    than the right one."""
    likelihood_weight: float = Field(default=1.0, ge=0)
    """cl: weight of the likelihood of right solutions beside InfoNCE. 0: only rank solutions."""
    orpo_lambda: float = Field(default=0.1, ge=0)
    """orpo: weight of the odds ratio."""
    kd_direction: Direction = "neg_nat"
    """nce: direction of the KL divergence behind beta: KL(negative || NAT), or KL(NAT || negative)."""
    kd_granularity: Granularity = "sequence"
    """nce: one beta for each solution, or one for each token."""
    kd_temperature: float = Field(default=1.0, gt=0)
    """nce: temperature of teacher and student."""
    precompute: Literal["none", "beta", "top-k"] = "none"
    """nce: compute once before training: beta (saves one forward pass a step), or the teacher's most likely tokens too
    (saves two)."""
    top_k: int = Field(default=64, ge=1)
    """nce: number of most likely tokens with --precompute top-k."""
    num_workers: str = "1"
    """Number of workers: N, or MIN:MAX to use what the cluster has."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs of each worker."""
    cpus_per_worker: float | None = Field(default=None, gt=0)
    """CPU slots and threads of each worker. Default: 1 on a cluster, an equal share of the cores locally."""
    wait_for_resources: float = Field(default=0.0, ge=0, description=cluster.WAIT_HELP.format("workers"))
    max_failures: int = Field(default=3, ge=0)
    """How often workers may die before the run stops."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the base model. auto: bfloat16 on a GPU, float32 on a CPU. Adapters are always float32."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of keeping them."""
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp: each worker holds a part of the base model, for a base that does not fit into one."""
    seed: int = 0
    """Seed of the adapter's initial weights, the order of the examples and dropout."""
    log_every: int = Field(default=10, ge=1)
    """Steps between two logs of metrics."""
    save_every: int = Field(default=100, ge=1)
    """Steps between two checkpoints. Validation runs with each."""

    _check_num_workers = field_validator("num_workers")(corpus_run.check_range)

    @model_validator(mode="after")
    def _check_together(self) -> "TrainConfig":
        if self.method not in METHODS:
            raise ValueError(f"--method {self.method} has flags of its own: {RANKERS[self.method][0].__name__}")
        for name in sorted(OWN_SETTINGS.difference(METHODS[self.method].own_settings)):
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if getattr(self, name) != default:
                flag = "--" + name.replace("_", "-")
                owners = " and ".join(owner for owner, method in METHODS.items() if name in method.own_settings)
                raise ValueError(f"{flag} does nothing with --method {self.method}: it is for {owners}")
        for name in METHODS[self.method].needs:
            if getattr(self, name) is None:
                raise ValueError(f"--method {self.method} needs --{name}: {STARTING_ADAPTERS[name][1]}")
        if self.precompute != "top-k" and self.top_k != type(self).model_fields["top_k"].default:
            raise ValueError("--top-k does nothing without --precompute top-k")
        check_instruction(self.template, self.instruction)
        if self.sharding == "fsdp" and self.worker_range[0] < 2:
            raise ValueError("--sharding fsdp splits the base between workers: --num-workers must be 2 or more")
        return self

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device of the workers' models."""
        return "cuda" if self.gpus_per_worker else "cpu"

    @property
    def worker_range(self) -> tuple[int, int]:
        """The bounds of the number of workers."""
        return corpus_run.range_of(self.num_workers)

    @property
    def threads_per_worker(self) -> int | None:
        """Threads of a worker on a CPU. None leaves the number to Ray."""
        return corpus_run.threads_each(self.cpus_per_worker, self.worker_range[1])


def config_class(flags: Mapping[str, Any]) -> type[JobConfig]:
    """The config class that has these flags: each kind of ranker has its own."""
    return RANKERS[flags["method"]][0] if flags.get("method") in RANKERS else TrainConfig


def main() -> None:
    """Entry point of `python -m jobs.train`."""
    if (method := command.peek("method")) in RANKERS:
        config_class, run_ranker, _ = RANKERS[method]
        command.main(config_class, run_ranker, __doc__ or "")
    command.main(TrainConfig, run, __doc__ or "")


def run(config: TrainConfig) -> int:
    """Train, or resume training. Returns the exit status."""
    corpora = tuple(inputs.list_corpus("--data", uri) for uri in config.data)
    output = open_run_folder(config.output)
    checked = _check_model(config)
    adapter, starts = _adapter_plan(config, checked)
    identity = _identity(config, corpora, checked, adapter) | starts
    record = manifest.open_run(output, JOB, identity, config.model_dump(mode="json"), command_line())
    if record.status == "finished":
        print(f"{config.output} is already finished")
        return _close(config, output, record)
    session = record.sessions[-1].name
    print(f"training ({config.method}) {config.model} on {', '.join(config.data)} -> {config.output}", flush=True)
    least, most = config.worker_range
    workers = Workers(least, most, config.cpus_per_worker or 1, config.gpus_per_worker, config.max_failures)
    with cluster.connect(max(os.cpu_count() or 1, math.ceil(most * workers.cpus)) + READ_SLOTS) as joined:
        _check_resources(workers, joined, config.wait_for_resources)
        begin_session(output, session)
        cluster.check_output(output, session)
        try:
            counts = _examples(config, corpora, output, checked, adapter)
        except UserError:
            _remove_unfinished(output, session)
            raise
        if counts.train < least:
            raise UserError(f"{least} workers need an example each, and there are {counts.train}: lower --num-workers")
        plan = _plan(config, checked, adapter, counts.train)
        print(f"{counts.train:,} examples, {plan.num_steps:,} steps; workers are starting", flush=True)
        workers = replace(workers, most=min(most, counts.train))  # a worker without an example would have nothing to do
        with Progress(StepsLine(output, plan)):
            stopped = training_fit.fit(plan, workers, output, session, counts)
    if stopped is not None:
        print(f"{JOB}: stopped at {stopped}", file=sys.stderr)
        page.write_report(output, record)
        training_fit.write_events(output)
        return 1
    record.status = "finished"
    record.totals = counts.totals
    record.sessions[-1].finished_at = time.time()
    record.save(output)
    output.session.delete_file()
    output.train_state.delete_folder()
    return _close(config, output, record)


def _remove_unfinished(output: RunFolder, session: str) -> None:
    """Remove a run that found no examples, so that the corrected command can use its folder."""
    with contextlib.suppress(OSError, UserError):
        check_session(output, session)
        if output.metrics.exists() or output.train_state.exists():
            return
        output.examples.delete_folder()
        output.session.delete_file()
        output.manifest.delete_file()


def _check_model(config: TrainConfig) -> CheckedModel:
    """The model to train on. Raises UserError if it is missing or cannot learn with these flags."""
    checked = check_model(config.model, chat=config.template is None)
    check_targets(checked.source, config.targets, METHODS[config.method].model_class)
    check_learnable(checked.source, config.max_tokens)
    return checked


def _adapter_plan(config: TrainConfig, checked: CheckedModel) -> tuple[AdapterPlan, dict[str, Any]]:
    """What is added to the model, and what identifies the adapters that it starts from. Raises UserError."""
    folders, starts = {}, {}
    for name, (kind, _) in STARTING_ADAPTERS.items():
        path = getattr(config, name)
        if path is None:
            continue
        folders[name] = trained.find_adapter(f"--{name}", path)
        starts[name] = trained.identify_adapter(f"--{name}", folders[name], checked.source)
        if starts[name]["kind"] != kind:
            raise UserError(f"--{name} {path} is an adapter of kind {starts[name]['kind']}, not {kind}")
        warning = trained.check_base(f"--{name}", folders[name], starts[name]["base"], checked.identity)
        if warning is not None:
            print(warning, file=sys.stderr)
    plan = AdapterPlan(config.rank, config.alpha, config.dropout, config.targets, config.gate_dim, **folders)
    method = METHODS[config.method]
    try:
        method.build(checked.source.empty(method.model_class), plan)
    except ValueError as error:  # the adapters adapt different layers
        raise UserError(str(error)) from None
    return plan, starts


def _identity(
    config: TrainConfig, corpora: tuple[Corpus, ...], checked: CheckedModel, adapter: AdapterPlan
) -> dict[str, Any]:
    """Everything that decides the adapter."""
    training = (
        "epochs", "max_steps", "batch_size", "micro_batch", "learning_rate", "warmup", "schedule", "weight_decay",
        "max_grad_norm", "max_tokens", "loss_on_prompt", "precompute", "top_k", "sharding", "seed",
    )  # fmt: skip
    return {
        "method": config.method,
        "data": [inputs.fingerprint(corpus) for corpus in corpora],
        "model": {**checked.identity, "dtype": resolve_dtype(config.dtype, config.device)},
        "adapter": {name: value for name, value in asdict(adapter).items() if name not in STARTING_ADAPTERS},
        "loss": asdict(_options(config)),
        "training": {name: getattr(config, name) for name in training},
        "prompt": asdict(_style(config)),
    }


def _style(config: TrainConfig) -> PromptStyle:
    return prompt_style(config.template, config.instruction)


def _options(config: TrainConfig) -> LossOptions:
    return LossOptions(**{each.name: getattr(config, each.name) for each in fields(LossOptions)})


def _examples(
    config: TrainConfig,
    corpora: tuple[Corpus, ...],
    output: RunFolder,
    checked: CheckedModel,
    adapter: AdapterPlan,
) -> training_data.ExampleCounts:
    """Make the examples, or find them made. Raises UserError if there are none to train on."""
    plan = training_data.ExamplePlan(
        config.method,
        checked.source,
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
            "fn_constructor_args": (
                _plan(config, checked, adapter, 1),
                config.top_k if config.precompute == "top-k" else 0,
            ),
            "compute": ActorPoolStrategy(min_size=least, max_size=most),
            "num_cpus": config.cpus_per_worker or 1,
            "num_gpus": config.gpus_per_worker or None,
        }
    counts = training_data.prepare(corpora, plan, output, teach)
    if counts.train == 0:
        why = ", ".join(f"{count:,} {reason}" for reason, count in counts.unused.items()) or "no rows"
        raise UserError(f"--data has no example for --method {config.method} ({METHODS[config.method].what}): {why}")
    return counts


def _plan(config: TrainConfig, checked: CheckedModel, adapter: AdapterPlan, num_examples: int) -> TrainingPlan:
    steps = config.max_steps or max(1, math.ceil(config.epochs * num_examples / config.batch_size))
    same = {name: getattr(config, name) for name in PLAN_FLAGS}
    return TrainingPlan(
        model=checked.source,
        adapter=adapter,
        options=_options(config),
        num_steps=steps,
        warmup_steps=int(config.warmup if config.warmup >= 1 else config.warmup * steps),
        device=config.device,
        dtype=resolve_dtype(config.dtype, config.device),
        num_threads=config.threads_per_worker,
        **same,
    )


def _check_resources(workers: Workers, joined: cluster.Cluster, wait_minutes: float) -> None:
    """Raise UserError unless Ray can start the workers: they would wait for ever."""
    if not joined.is_local:
        ask = cluster.Ask(workers.cpus, workers.gpus)
        cluster.wait_for_room(ask, workers.least, wait_minutes, "--num-workers or --gpus-per-worker")
        return
    asked = {"CPU": workers.least * workers.cpus, "GPU": workers.least * workers.gpus}
    for name, amount in asked.items():
        has = joined.resources.get(name, 0.0)
        if name == "CPU":
            has = min(has, os.cpu_count() or 1)  # a local Ray offers some more slots, for data
        if amount > has:
            raise UserError(
                f"{workers.least} workers ask for {amount:g} {name}s, this machine has {has:g}: "
                "lower --num-workers or join a cluster (RAY_ADDRESS)"
            )


def _close(config: TrainConfig, output: RunFolder, record: manifest.Manifest) -> int:
    """Write report, model card and TensorBoard events, and print the summary. Returns the exit status."""
    facts = page.write_report(output, record)
    model_card.write(output, facts, record)
    training_fit.write_events(output)
    print(page.summary(facts, config.output, record))
    print(f"adapter     {config.output.rstrip('/')}/{ADAPTER}")
    return 0


if __name__ == "__main__":
    main()
