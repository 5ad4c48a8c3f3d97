"""transformers.Trainer with a loss of ours: what one process of a training run does. Needs no Ray.

The Trainer brings the loop, mixed precision, clipping, the schedule, checkpoints and DDP or FSDP; ours are the order
of the data, the loss with its normalisation over the whole step, and what happens when it is not finite.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from actors.batches import StepSampler, loader
from algorithms.methods import METHODS, AdapterPlan, LossOptions, Method

EVALUATED_BATCHES: Final = 64
Sharding = Literal["none", "fsdp"]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How to train; with the examples it decides the adapter. `batch_size` is of a step over all workers."""

    method: str
    model: str  # a folder or hub name, as `from_pretrained` takes it
    adapter: AdapterPlan
    options: LossOptions
    num_steps: int
    batch_size: int
    micro_batch: int
    learning_rate: float
    warmup_steps: int
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    log_every: int = 10
    save_every: int = 100
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: str = "float32"
    num_threads: int | None = None
    gradient_checkpointing: bool = False
    sharding: Sharding = "none"

    def num_micro(self, world_size: int) -> int:
        """Micro-batches of a worker in one step."""
        return math.ceil(self.local_batch(world_size) / self.micro_batch)

    def local_batch(self, world_size: int) -> int:
        """Examples of a worker in one step; a few more in all where the workers do not divide the batch."""
        return math.ceil(self.batch_size / world_size)


class NotFinite(ArithmeticError):
    """The loss of a step is NaN or infinite; the message names the step and the rows. No optimizer step was made."""


@dataclass
class _Tally:
    """What the micro-batches since the last optimizer step and since the last log have told."""

    losses: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # loss, indices of its examples
    metrics: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    tokens: int = 0


class AdapterTrainer(Trainer):
    """Trains the adapter of a method on a rank's examples (tables of EXAMPLE_SCHEMA).

    `on_log` is told of metrics on every rank, `on_save` of a folder with a whole checkpoint.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        examples: pa.Table,
        folder: Path,
        *,
        validation: pa.Table | None = None,
        world_size: int = 1,
        on_log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
        on_save: Callable[[int, Path], None] = lambda step, folder: None,
    ) -> None:
        self._plan = plan
        self._method: Method = METHODS[plan.method]
        self._examples = examples
        self._validation = validation if validation is not None and validation.num_rows else None
        self._tally = _Tally()
        self._report = on_log
        if plan.num_threads:
            torch.set_num_threads(plan.num_threads)
        set_seed(plan.seed)
        self._pad_id = pad_id(plan.model)
        model = build(plan)
        super().__init__(model=model, args=_arguments(plan, folder, world_size), callbacks=[_Finite(self, on_save)])
        self.model_accepts_loss_kwargs = True  # the loss is scaled for accumulation already
        self.loss_is_scaled_for_ga = True
        self.can_return_loss = True

    @property
    def has_validation(self) -> bool:
        """Whether there is anything to evaluate on."""
        return self._validation is not None

    def get_train_dataloader(self) -> Any:
        """The micro-batches of this rank; not sharded again."""
        sampler = StepSampler(
            self._examples["num_tokens"].to_numpy(),
            self._plan.local_batch(self.args.world_size),
            self.args.gradient_accumulation_steps,
            self._plan.num_steps,
            self._plan.seed,
        )
        return loader(self._examples, sampler, self._pad_id)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and how many items all ranks have in theirs, over the number of ranks."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        counts = torch.tensor(float(sum(self._method.num_items(batch) for batch in batches)), device=device)
        self._tally.tokens += sum(int(batch["attention_mask"].sum()) for batch in batches)
        return batches, self.accelerator.reduce(counts, reduction="mean")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The method's loss of a micro-batch; a step's micro-batches add up to the step's loss."""
        loss, metrics = self._method.loss(model, inputs, self._plan.options, num_items_in_batch)
        self._tally.losses.append((loss.detach(), inputs["index"]))
        for name, value in metrics.items():
            self._tally.metrics[name] = self._tally.metrics.get(name, torch.zeros_like(value)) + value
        return loss

    def check_finite(self) -> None:
        """Called on all ranks before each optimizer step. Raises NotFinite on all of them or on none."""
        losses, self._tally.losses = self._tally.losses, []
        self._tally.steps += 1
        bad = torch.stack([~loss.isfinite() for loss, _ in losses])
        if not self.accelerator.reduce(bad.any().float(), reduction="sum").item():
            return
        rows = [index for (_, indices), is_bad in zip(losses, bad.tolist(), strict=True) if is_bad for index in indices]
        ids = sorted({self._examples["id"][int(index)].as_py() for index in rows})
        if self.args.world_size > 1:
            gathered: list[Any] = [None] * self.args.world_size
            torch.distributed.all_gather_object(gathered, ids)
            ids = sorted(set(itertools.chain.from_iterable(gathered)))
        raise NotFinite(
            f"step {self.state.global_step + 1}: the loss is not finite on a micro-batch of {', '.join(ids[:8])}"
            + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the method's metrics, as means over the steps since the last log."""
        if "loss" in logs:
            tally, self._tally = self._tally, _Tally(losses=self._tally.losses)
            for name, value in tally.metrics.items():
                logs[name] = float(self.accelerator.reduce(value, reduction="mean")) / max(1, tally.steps)
            logs["num_tokens"] = int(self.accelerator.reduce(torch.tensor(float(tally.tokens)).to(self.args.device)))
        seen = self.state.global_step * self._plan.batch_size
        logs["epoch"] = round(seen / max(1, self._examples.num_rows * self.args.world_size), 4)
        self.state.log_history.append(logs | {"step": self.state.global_step})
        self._report(self.state.global_step, logs)

    @torch.no_grad()
    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """The method's loss on validation examples of all ranks: at most EVALUATED_BATCHES micro-batches of each."""
        assert self._validation is not None, "asked for where there is validation only"
        sizes = self._validation["num_tokens"].to_numpy()
        order = sizes.argsort(kind="stable").tolist()
        size = self._plan.micro_batch
        parts = [order[first : first + size] for first in range(0, len(order), size)]
        stride = math.ceil(len(parts) / EVALUATED_BATCHES)
        sums = torch.zeros(2, device=self.args.device)
        kept, self._tally = self._tally, _Tally()
        model: Any = self.model
        model.eval()
        for batch in loader(self._validation, parts[::stride], self._pad_id):
            inputs = self._prepare_inputs(batch)
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs, num_items_in_batch=1)
            sums += torch.stack([loss.float(), torch.tensor(float(self._method.num_items(batch))).to(loss.device)])
        model.train()
        self._tally = kept
        total: Tensor = self.accelerator.reduce(sums, reduction="sum")
        metrics = {"eval_loss": float(total[0] / total[1].clamp(min=1))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Finite(TrainerCallback):
    """Where the Trainer lets others in: before an optimizer step, and when a checkpoint is written."""

    def __init__(self, trainer: AdapterTrainer, on_save: Callable[[int, Path], None]) -> None:
        self._trainer = trainer
        self._on_save = on_save

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        """Stop before a step that would write NaN into the adapter."""
        self._trainer.check_finite()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """The last step is logged too, and every checkpoint evaluated."""
        is_last = state.global_step >= state.max_steps
        control.should_log |= is_last
        control.should_evaluate |= self._trainer.has_validation and control.should_save | is_last

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """A whole checkpoint lies in its folder."""
        assert args.output_dir is not None
        self._on_save(state.global_step, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def build(plan: TrainingPlan) -> Any:
    """The base model with the method's adapter. Raises ValueError for adapters or targets that do not fit."""
    base = AutoModelForCausalLM.from_pretrained(plan.model, dtype=getattr(torch, plan.dtype))
    model = METHODS[plan.method].build(base, plan.adapter)
    if plan.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def pad_id(model: str) -> int:
    """A token to pad with: it is masked, so any will do."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def _arguments(plan: TrainingPlan, folder: Path, world_size: int) -> TrainingArguments:
    on_gpu = plan.device == "cuda"
    fsdp: dict[str, Any] = {}
    if plan.sharding == "fsdp":
        fsdp = {
            "fsdp": "full_shard auto_wrap",
            "fsdp_config": {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"},
        }
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=plan.micro_batch,
        gradient_accumulation_steps=plan.num_micro(world_size),
        max_steps=plan.num_steps,
        learning_rate=plan.learning_rate,
        warmup_steps=plan.warmup_steps,
        lr_scheduler_type=plan.schedule,
        weight_decay=plan.weight_decay,
        max_grad_norm=plan.max_grad_norm,
        optim="adamw_torch",
        seed=plan.seed,
        bf16=on_gpu and plan.dtype == "bfloat16",
        use_cpu=not on_gpu,
        ddp_backend=None if world_size == 1 else "nccl" if on_gpu else "gloo",
        ddp_find_unused_parameters=False,
        gradient_checkpointing=plan.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if plan.gradient_checkpointing else None,
        logging_steps=plan.log_every,
        logging_nan_inf_filter=False,
        save_steps=plan.save_every,
        save_strategy="steps",
        eval_strategy="no",
        save_total_limit=1,
        report_to=[],
        remove_unused_columns=False,
        label_names=["targets"],
        disable_tqdm=True,
        **fsdp,
    )
