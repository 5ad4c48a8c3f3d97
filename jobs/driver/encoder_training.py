"""`jobs.train --method ranker-encoder`: graded samples -> a ranker that reads the solution, in OUTPUT/ranker."""

import functools
import time
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from actors.errors import UserError
from actors.models.checks import CheckedModel, check_model
from actors.models.embedded import ENCODER
from actors.ranking.encoder_files import check_trunk
from actors.ranking.encoder_trainer import EncoderPlan
from actors.ranking.encoder_worker import train_encoder
from actors.ranking.tokens import TOKEN_SCHEMA, describe_tokens
from actors.runs.folder import RunFolder
from actors.runs.metrics import read_last_metrics
from algorithms.ranking.losses import LOSSES
from jobs.driver import ranker_run
from jobs.driver.command import choice
from jobs.driver.ranker_run import RankerRun, RankerRunConfig
from jobs.reports.parts import clock

METHOD: Final = "ranker-encoder"
WHAT: Final = "an encoder that reads question and solution, trained on pairs of a right and a wrong solution"
SMALLEST_WINDOW: Final = 64
MOST_TOKENS: Final = 2048  # the default for models with a long window: few solutions are longer
ELSEWHERE: Final = ("source", "device", "num_threads", "log_every")  # of a plan: said elsewhere, or without effect


class EncoderConfig(RankerRunConfig):
    """Flags of `jobs.train --method ranker-encoder`."""

    method: Literal["ranker-encoder"]
    """ranker-encoder: an encoder that reads question and solution, trained on pairs of a right and a wrong solution."""
    model: str = ENCODER
    """The trunk, an encoder or a decoder: minilm (embedded), a model folder or a hub name."""
    max_tokens: int | None = Field(default=None, ge=SMALLEST_WINDOW)
    """Tokens of question and solution together. Longer ones lose their beginning. Default: the window of the model,
    at most 2048."""
    loss: Annotated[str, choice(LOSSES)] = "power"
    """Loss of a pair. s: scores, z: logits of its right and its wrong solution. power: (1 - s_right)^k + s_wrong^k.
    bradley-terry: -log sigmoid(z_right - z_wrong). bce: -log s_right - log(1 - s_wrong)."""
    power: float = Field(default=3.0, gt=0)
    """power: the exponent k."""
    pairs_per_problem: str = "1"
    """Pairs of each problem in an epoch, drawn anew for each: a number, or all."""
    epochs: int = Field(default=5, ge=1)
    """Number of epochs at most. The one with the best pair accuracy on the validation problems is kept."""
    patience: int = Field(default=2, ge=1)
    """Stop when the pair accuracy on the validation problems has not risen for so many epochs."""
    tokens_per_batch: int = Field(default=8192, ge=2 * SMALLEST_WINDOW)
    """Tokens in a forward pass of a worker, with padding. Pairs of similar length share one."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate of the trunk."""
    head_learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the head. It starts from random weights, so it needs a higher one than the trunk."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training in which the learning rates rise. They fall linearly to 0 in the rest."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Clip gradients to this norm. 0: no clipping."""
    dropout: bool = True
    """Train with the trunk's own dropout. Without it, a step on a CPU takes less than half the time."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs of each worker, which computes in bfloat16 there."""
    log_every: int = Field(default=10, ge=1)
    """Steps between two logs of metrics."""

    @field_validator("pairs_per_problem")
    @classmethod
    def _check_pairs(cls, value: str) -> str:
        if value != "all" and not (value.isdecimal() and int(value) > 0):
            raise ValueError("must be a number from 1 on, or all")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> "EncoderConfig":
        if self.loss != "power" and self.power != type(self).model_fields["power"].default:
            raise ValueError(f"--power does nothing with --loss {self.loss}")
        return self


def run(config: EncoderConfig) -> int:
    """Train, or resume training. Returns the exit status."""
    corpora = ranker_run.open_data(config)
    checked = check_model(config.model)
    check_trunk(checked.source)
    plan = _plan(config, checked)
    settings = {name: value for name, value in asdict(plan).items() if name not in ELSEWHERE}
    return ranker_run.run(
        RankerRun(
            config,
            corpora,
            {"model": checked.identity, "ranker": settings},
            functools.partial(describe_tokens, source=checked.source, window=plan.window),
            TOKEN_SCHEMA,
            functools.partial(_trainer, plan),
            config.gpus_per_worker,
            functools.partial(_check_pairs, config.num_workers),
            lambda output: EpochsLine(output, config.epochs),
        )
    )


def _plan(config: EncoderConfig, checked: CheckedModel) -> EncoderPlan:
    same = (
        "loss", "power", "epochs", "patience", "learning_rate", "head_learning_rate", "warmup", "weight_decay",
        "max_grad_norm", "dropout", "tokens_per_batch", "seed", "log_every",
    )  # fmt: skip
    return EncoderPlan(
        source=checked.source,
        window=_window(config, checked.source.window),
        pairs_per_problem=None if config.pairs_per_problem == "all" else int(config.pairs_per_problem),
        device="cuda" if config.gpus_per_worker else "cpu",
        num_threads=config.threads_per_worker,
        **{name: getattr(config, name) for name in same},
    )


def _window(config: EncoderConfig, seen: int) -> int:
    """The tokens of a sample at most. Raises UserError if the model sees fewer than were asked for, or too few."""
    if seen < SMALLEST_WINDOW:
        raise UserError(f"--model {config.model} sees {seen} tokens: a ranker needs {SMALLEST_WINDOW} or more")
    if config.max_tokens is not None and config.max_tokens > seen:
        raise UserError(f"--max-tokens {config.max_tokens}: model {config.model!r} sees {seen} at most")
    return config.max_tokens or min(seen, MOST_TOKENS)


def _check_pairs(num_workers: int, counts: dict[str, Any]) -> None:
    """Raise UserError unless each worker has a pair to train on, and the validation problems have one."""
    for split, needed in (("train", num_workers), ("validation", 1)):
        found = counts["problems_with_pairs"][split]
        if found < needed:
            raise UserError(
                f"--data: {found} problems of the split {split} have both a right and a wrong sample, and the workers "
                f"need {needed}: grade more samples of each problem, or lower --num-workers"
            )


def _trainer(plan: EncoderPlan, output: RunFolder, session: str, shared: dict[str, Any]) -> Any:
    from ray.train.torch import TorchTrainer

    settings = {"plan": plan, "run": output.patient(), "session": session}
    return ranker_run.interruptible(TorchTrainer)(train_encoder, train_loop_config=settings, **shared)


class EpochsLine:
    """The progress line of a run: how far it is, and what was measured last."""

    def __init__(self, run: RunFolder, epochs: int) -> None:
        self._file = run.metrics
        self._epochs = epochs
        self._started = time.monotonic()

    def __call__(self) -> str:
        """The line now."""
        last = read_last_metrics(self._file, "loss")
        passed = clock(time.monotonic() - self._started)
        if last is None:
            return f"0/{self._epochs} epochs  starting, {passed}"
        parts = [f"{last['epoch']:.2f}/{self._epochs} epochs", f"step {last['step']:,}", f"loss {last['loss']:.4f}"]
        if (measured := read_last_metrics(self._file, "validation_pair_accuracy")) is not None:
            accuracy = measured["validation_pair_accuracy"]
            parts.append(f"{accuracy:.3f} of validation pairs in the right order")
        return "  ".join([*parts, passed])
