"""The second stage of training: Ray Train over the examples, and what it leaves in the run's folder."""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.adapter_trainer import TrainingPlan
from actors.models import ADAPTER_FOLDER
from actors.storage import Storage
from actors.training import METRICS_FILE, STOPPED_FILE, read_metrics, train_worker
from jobs.driver import training_data
from jobs.driver.command import UserError
from jobs.driver.progress import clock

EVENTS_FOLDER: Final = "tensorboard"
STATE_FOLDER: Final = "_train"
CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"


@dataclass(frozen=True)
class Workers:
    """How many workers and what each asks for."""

    least: int
    most: int
    cpus: float
    gpus: float
    max_failures: int


class StepsLine:
    """One line about the steps that are logged so far."""

    def __init__(self, run: Storage, plan: TrainingPlan) -> None:
        self._file = run / METRICS_FILE
        self._plan = plan
        self._started = time.monotonic()
        self._before = max((line["step"] for line in read_metrics(self._file)), default=0)

    def __call__(self) -> str:
        """The line now."""
        seconds = time.monotonic() - self._started
        lines = [line for line in read_metrics(self._file) if "loss" in line]
        if not lines:
            return f"0/{self._plan.num_steps:,} steps  starting, {clock(seconds)}"
        step, made = lines[-1]["step"], lines[-1]["step"] - self._before
        parts = [f"{step:,}/{self._plan.num_steps:,} steps", f"loss {lines[-1]['loss']:.4f}"]
        if made > 0:
            parts.append(f"ETA {clock((self._plan.num_steps - step) * seconds / made)}")
        return "  ".join(parts)


def fit(plan: TrainingPlan, workers: Workers, output: Storage, session: str, sizes: dict[str, int]) -> str | None:
    """Train to the last step, from the last checkpoint on, on the parts of the examples that `sizes` names.

    Why it stopped before, or None. Raises UserError where the workers fail more often than they may.
    """
    import ray.data
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    class Interruptible(TorchTrainer):
        """Leaves Ctrl-C to the command, where Ray Train would end with status 0, or with a stack trace."""

        def _register_sigint_handler(self, controller: Any) -> None:
            pass

    (output / STOPPED_FILE).delete_file()
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    # Read before the workers start: they may take every CPU there is, and their data would wait for one for ever.
    datasets: dict[str, Any] = {part: training_data.read_part(output, part).materialize() for part in sizes}
    number: Any = workers.least if workers.least == workers.most else (workers.least, workers.most)
    resources = {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}
    trainer = Interruptible(
        train_worker,
        train_loop_config={"plan": plan, "run": output, "session": session, "sizes": sizes},
        scaling_config=ScalingConfig(
            num_workers=number,
            use_gpu=workers.gpus > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=STATE_FOLDER,
            storage_path=output.path,
            storage_filesystem=output.filesystem,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
        datasets=datasets,
        dataset_config=DataConfig(datasets_to_split=[]),  # a worker cuts its own part, always the same
    )
    drop_broken_state(output)
    try:
        result = trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
        raise UserError(
            f"training failed: {_cause(error)}; the same command goes on from the last checkpoint"
        ) from None
    stopped = output / STOPPED_FILE
    if stopped.exists():
        kept = f"the last checkpoint before it is {result.checkpoint.path}" if result.checkpoint else "no checkpoint"
        return f"{stopped.read_bytes().decode()}; {kept}"
    if result.checkpoint is None:
        raise UserError("training ended without a checkpoint")
    with result.checkpoint.as_directory() as saved:
        _leave_adapter(Path(saved), output, plan.model)
    return None


def _cause(error: BaseException) -> str:
    """The last line of what a worker died of."""
    text = str(error).strip().splitlines()
    return next((line.strip() for line in reversed(text) if line.strip()), type(error).__name__)


def drop_broken_state(output: Storage) -> None:
    """Ray Train writes down its checkpoints in place: a death in the middle would keep the run from ever going on."""
    snapshot = output / STATE_FOLDER / "checkpoint_manager_snapshot.json"
    try:
        json.loads(snapshot.read_bytes())
    except FileNotFoundError:
        return
    except ValueError:
        snapshot.delete_file()


def _leave_adapter(saved: Path, output: Storage, model: str) -> None:
    """Put the adapter of a checkpoint into the run's folder; its config, without which it is none, comes last."""
    folder = output / ADAPTER_FOLDER
    folder.delete_folder()
    folder.make_folder()
    (folder / WEIGHTS_FILE).write_bytes((saved / WEIGHTS_FILE).read_bytes())
    settings = json.loads((saved / CONFIG_FILE).read_bytes())
    settings["base_model_name_or_path"] = model  # not where this machine keeps it
    (folder / CONFIG_FILE).write_bytes(json.dumps(settings, indent=2).encode())


def write_events(output: Storage) -> None:
    """The metrics as TensorBoard event files."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        for line in read_metrics(output / METRICS_FILE):
            for name, value in line.items():
                if name not in ("step", "time"):
                    writer.add_scalar(f"train/{name}", value, line["step"], walltime=line["time"])
        writer.close()
        events = output / EVENTS_FOLDER
        events.delete_folder()
        events.make_folder()
        for file in Path(folder).iterdir():
            (events / file.name).write_bytes(file.read_bytes())
