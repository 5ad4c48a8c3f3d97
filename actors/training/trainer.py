"""transformers.Trainer with the losses of `algorithms.methods`, for one process of a training run. Needs no Ray.

The Trainer brings the loop, mixed precision, clipping, the schedule, checkpoints and DDP. This module adds the order of
the data, the loss with its normalisation over the whole step, the check for losses that are not finite, and FSDP of the
base model (`actors.training.sharding`).
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
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from actors.errors import NonFiniteLoss
from actors.models.source import ModelSource
from actors.training.batches import Ahead, Rows, StepSampler, loader
from actors.training.sharding import named_tensors, shard_base, weightless
from algorithms.methods import METHODS, AdapterPlan, LossOptions, Method

EVALUATED_BATCHES: Final = 64
BEFORE_FIRST_STEP: Final = "before its first step"
Sharding = Literal["none", "fsdp"]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How to train. Plan and examples determine the adapter. `batch_size` counts a step's examples on all workers."""

    method: str
    model: ModelSource
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
        """Micro-batches of a worker in a step."""
        return math.ceil(self.local_batch(world_size) / self.micro_batch)

    def local_batch(self, world_size: int) -> int:
        """Examples of a worker in a step, rounded up if the workers do not divide the batch."""
        return math.ceil(self.batch_size / world_size)


@dataclass
class _Tally:
    """Losses since the last optimizer step, and sums since the last log."""

    losses: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # loss, indices of its examples
    metrics: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    tokens: int = 0


class AdapterTrainer(Trainer):
    """Trains the adapter of a method on a rank's examples (tables of EXAMPLE_SCHEMA).

    Every rank calls `on_log` with metrics, and `on_save` with the folder of a whole checkpoint.
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
        self._rows = Rows(examples)
        self._validation = validation
        self._ahead: Ahead | None = None
        self._first_step = 0
        self._tally = _Tally()
        self._report = on_log
        if plan.num_threads:
            torch.set_num_threads(plan.num_threads)
        args = _arguments(plan, folder, world_size)
        set_seed(plan.seed)
        self._pad_id = plan.model.pad_id
        model = build_model(plan, args.device)
        super().__init__(model=model, args=args, callbacks=[_Hooks(self, on_save)])
        self.model_accepts_loss_kwargs = True  # the loss is already scaled for accumulation
        self.loss_is_scaled_for_ga = True

    @property
    def has_validation(self) -> bool:
        """Whether there are validation examples. The same on all ranks."""
        return self._validation is not None

    def train(self, *arguments: Any, **named: Any) -> Any:
        """Train as transformers' Trainer does. An exception gets a note that says in which step it came."""
        try:
            return super().train(*arguments, **named)
        except Exception as error:
            step = self.state.global_step
            error.add_note(f"in step {step + 1}" if step > self._first_step else BEFORE_FIRST_STEP)
            raise
        finally:
            if self._ahead is not None:
                self._ahead.close()
                self._ahead = None

    def begin(self) -> None:
        """Called when training begins or resumes."""
        self._first_step = self.state.global_step

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """DDP, here because accelerate rejects a sharded base. DDP does not have to know about the sharding."""
        if self.args.world_size == 1 or isinstance(model, DistributedDataParallel):
            return model
        devices = [self.args.device] if self._plan.device == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    def get_train_dataloader(self) -> Any:
        """The micro-batches of this rank. They must not be sharded again."""
        sampler = StepSampler(
            self._examples["num_tokens"].to_numpy(),
            self._plan.local_batch(self.args.world_size),
            self.args.gradient_accumulation_steps,
            self._plan.num_steps,
            self._plan.seed,
        )
        return loader(self._rows, sampler, self._method.collate, self._pad_id)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and the number of items in it: the mean over the ranks."""
        if self._ahead is None:  # all steps are one epoch
            self._ahead = Ahead(epoch_iterator)
        batches = list(itertools.islice(self._ahead, num_batches))
        counts = torch.tensor(float(sum(self._method.num_items(batch) for batch in batches)), device=device)
        self._tally.tokens += sum(int(batch["attention_mask"].sum()) for batch in batches)
        return batches, self.accelerator.reduce(counts, reduction="mean")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The method's loss of a micro-batch. The losses of a step's micro-batches add up to the step's loss."""
        # accelerate's autocast would convert all logits to float32. The losses convert a few rows at a time.
        is_mixed = self._plan.device == "cuda" and self._plan.dtype == "bfloat16"
        with torch.autocast(self._plan.device, torch.bfloat16, enabled=is_mixed):
            loss, metrics = self._method.loss(model, inputs, self._plan.options, num_items_in_batch)
        self._tally.losses.append((loss.detach(), inputs["index"]))
        for name, value in metrics.items():
            self._tally.metrics[name] = self._tally.metrics.get(name, torch.zeros_like(value)) + value
        return loss

    def check_finite(self) -> None:
        """Called on all ranks before each optimizer step. Raises NonFiniteLoss on all ranks or on none."""
        losses, self._tally.losses = self._tally.losses, []
        self._tally.steps += 1
        bad = torch.stack([~loss.isfinite() for loss, _ in losses])
        if not self.accelerator.reduce(bad.any().float(), reduction="sum").item():
            model: Any = self.model
            gradients = [each.grad for each in model.parameters() if each.grad is not None]
            if torch.nn.utils.get_total_norm(gradients).isfinite():  # the same on all ranks
                return
            bad = torch.ones_like(bad)  # any row of the step may be the cause
        rows = [index for (_, indices), is_bad in zip(losses, bad.tolist(), strict=True) if is_bad for index in indices]
        ids = sorted({self._examples["id"][int(index)].as_py() for index in rows})
        if self.args.world_size > 1:
            gathered: list[Any] = [None] * self.args.world_size
            torch.distributed.all_gather_object(gathered, ids)
            ids = sorted(set(itertools.chain.from_iterable(gathered)))
        raise NonFiniteLoss(
            f"step {self.state.global_step + 1}: the loss or its gradient is not finite on a micro-batch of "
            + ", ".join(ids[:8])
            + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the method's metrics, as means over the steps since the last log."""
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
        """The method's loss on validation examples: at most EVALUATED_BATCHES micro-batches of each rank."""
        kept, self._tally = self._tally, _Tally()
        model: Any = self.model
        model.eval()
        sums = torch.zeros(2, device=self.args.device)
        for batch, counts in self._validation_batches():
            inputs = self._prepare_inputs(batch)
            loss = self.compute_loss(model, inputs, num_items_in_batch=1)
            if counts:
                sums += torch.stack([loss.float(), loss.new_tensor(self._method.num_items(batch)).float()])
        model.train()
        if self._plan.sharding == "fsdp":
            model.reshard()  # without a backward pass nothing else does, and saving would wait for the other ranks
        self._tally = kept
        total: Tensor = self.accelerator.reduce(sums, reduction="sum")
        metrics = {"eval_loss": float(total[0] / total[1].clamp(min=1))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validation_batches(self) -> Iterator[tuple[dict[str, Tensor], bool]]:
        """The same number of micro-batches on each rank, and whether each counts: a sharded base needs all ranks.

        A DataLoader would draw from dropout's random generator, so evaluation would change the adapter.
        """
        assert self._validation is not None, "evaluation runs only if there is validation data"
        rows = Rows(self._validation)
        order = self._validation["num_tokens"].to_numpy().argsort(kind="stable").tolist()
        size = self._plan.micro_batch
        parts = [order[first : first + size] for first in range(0, len(order), size)]
        parts = parts[:: max(1, math.ceil(len(parts) / EVALUATED_BATCHES))]
        most = self.accelerator.gather(torch.tensor([len(parts)], device=self.args.device)).max()
        for part in parts:
            yield self._method.collate(rows[part], part, self._pad_id), True
        for _ in range(int(most) - len(parts)):
            yield self._method.collate(self._rows[[0]], [0], self._pad_id), False


class _Hooks(TrainerCallback):
    """The Trainer's callbacks: before and after an optimizer step, and when a checkpoint is written."""

    def __init__(self, trainer: AdapterTrainer, on_save: Callable[[int, Path], None]) -> None:
        self._trainer = trainer
        self._on_save = on_save

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        """Log and save as often as this command asks, not as the checkpoint's command did."""
        state.logging_steps, state.save_steps = int(args.logging_steps), int(args.save_steps)
        self._trainer.begin()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        """Stop before a step that would write NaN into the adapter."""
        self._trainer.check_finite()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Log the last step too, and evaluate every checkpoint."""
        is_last = state.global_step >= state.max_steps
        control.should_log |= is_last
        control.should_evaluate |= self._trainer.has_validation and control.should_save | is_last

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Hand on the folder of a whole checkpoint."""
        assert args.output_dir is not None
        self._on_save(state.global_step, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def build_model(plan: TrainingPlan, device: torch.device | None = None) -> Any:
    """The base model with what the method trains, on `device` (a CPU's by default).

    A sharded base is filled by all processes together. Raises ValueError if adapters or targets do not fit.
    """
    device = device or torch.device("cpu")
    method = METHODS[plan.method]
    is_sharded = plan.sharding == "fsdp"
    if is_sharded:
        base = weightless(plan.model, plan.dtype, method.model_class, device)
    else:
        base = plan.model.load(plan.dtype, method.model_class, str(device) if device.type == "cuda" else None)
    names = named_tensors(base)
    model: Any = method.build(base, plan.adapter)
    if plan.gradient_checkpointing:
        model.enable_input_require_grads()
    if is_sharded:
        shard_base(model, names, lambda: plan.model.load(plan.dtype, method.model_class))
    return model


def _arguments(plan: TrainingPlan, folder: Path, world_size: int) -> TrainingArguments:
    on_gpu = plan.device == "cuda"
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=plan.micro_batch,
        gradient_accumulation_steps=plan.num_micro(world_size),
        max_steps=plan.num_steps,
        learning_rate=plan.learning_rate,
        warmup_steps=plan.warmup_steps,
        lr_scheduler_type="constant_with_warmup" if plan.schedule == "constant" else plan.schedule,
        weight_decay=plan.weight_decay,
        max_grad_norm=plan.max_grad_norm,
        optim="adamw_torch",
        seed=plan.seed,
        use_cpu=not on_gpu,
        ddp_backend=None if world_size == 1 else "nccl" if on_gpu else "gloo",
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
        disable_tqdm=True,
    )
