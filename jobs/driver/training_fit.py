"""The second stage of training: Ray Train over the examples, and its results in the run's folder."""

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.errors import UserError
from actors.runs.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TRAIN_STATE, RunFolder
from actors.runs.metrics import read_last_metrics, read_metrics
from actors.training.trainer import TrainingPlan
from actors.training.worker import train_worker
from jobs.driver.attempts import Attempts
from jobs.driver.training_data import ExampleCounts
from jobs.reports.parts import clock


@dataclass(frozen=True)
class Workers:
    """The number of workers and the resources of each."""

    least: int
    most: int
    cpus: float
    gpus: float
    max_failures: int


class StepsLine:
    """The progress line of a training run: steps logged so far."""

    def __init__(self, run: RunFolder, plan: TrainingPlan) -> None:
        self._file = run.metrics
        self._plan = plan
        self._started = time.monotonic()
        last = read_last_metrics(self._file, "step")
        self._before = last["step"] if last else 0

    def __call__(self) -> str:
        """The line now."""
        seconds = time.monotonic() - self._started
        line = read_last_metrics(self._file, "loss")
        if line is None:
            return f"0/{self._plan.num_steps:,} steps  starting, {clock(seconds)}"
        step, made = line["step"], line["step"] - self._before
        parts = [f"{step:,}/{self._plan.num_steps:,} steps", f"loss {line['loss']:.4f}"]
        if made > 0:
            parts.append(f"ETA {clock((self._plan.num_steps - step) * seconds / made)}")
        return "  ".join(parts)


def fit(plan: TrainingPlan, workers: Workers, output: RunFolder, session: str, examples: ExampleCounts) -> str | None:
    """Train to the last step, from the last checkpoint on.

    Returns None, or the reason why training stopped early. Raises UserError if workers fail more often than allowed,
    or in a way that another attempt would repeat (`jobs.driver.attempts`).
    """
    import ray.train

    output.stopped.delete_file()
    attempts = Attempts(workers.max_failures)
    result = None
    while result is None:
        drop_broken_state(output)
        try:
            result = _trainer(plan, workers, output, session, examples).fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            attempts.check(error)
    if output.stopped.exists():
        kept = f"the last checkpoint is {result.checkpoint.path}" if result.checkpoint else "there is no checkpoint"
        return f"{output.stopped.read_bytes().decode()}; {kept}"
    if result.checkpoint is None:
        raise UserError("training ended without a checkpoint")
    with result.checkpoint.as_directory() as saved:
        _save_adapter(Path(saved), output, plan.model.name)
    return None


def _trainer(plan: TrainingPlan, workers: Workers, output: RunFolder, session: str, examples: ExampleCounts) -> Any:
    """One attempt. It goes on from the last checkpoint in the run's folder."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    class Interruptible(TorchTrainer):
        """Leaves Ctrl-C to the command. Ray Train would exit with status 0, or with a stack trace."""

        def _register_sigint_handler(self, controller: Any) -> None:
            pass

    number: Any = workers.least if workers.least == workers.most else (workers.least, workers.most)
    patient = replace(output, root=output.root.patient())
    settings = {"plan": plan, "run": patient, "session": session, "files": examples.files, "sizes": examples.sizes}
    return Interruptible(
        train_worker,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=number,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})},
        ),
        run_config=RunConfig(
            name=TRAIN_STATE,
            storage_path=output.path,
            storage_filesystem=output.root.filesystem,
            failure_config=FailureConfig(max_failures=0),  # but any number of preempted nodes; `Attempts` counts
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )


def drop_broken_state(output: RunFolder) -> None:
    """Delete a damaged list of checkpoints. Ray Train writes it in place, so a death can leave it half written."""
    snapshot = output.train_state / "checkpoint_manager_snapshot.json"
    try:
        json.loads(snapshot.read_bytes())
    except FileNotFoundError:
        return
    except ValueError:
        snapshot.delete_file()


def _save_adapter(saved: Path, output: RunFolder, model: str) -> None:
    """Copy a checkpoint's adapter into the run's folder. The config comes last and completes it."""
    folder = output.adapter
    folder.delete_folder()
    folder.make_folder()
    (folder / ADAPTER_WEIGHTS).write_bytes((saved / ADAPTER_WEIGHTS).read_bytes())
    settings = json.loads((saved / ADAPTER_CONFIG).read_bytes())
    settings["base_model_name_or_path"] = model  # not this machine's path to it
    (folder / ADAPTER_CONFIG).write_bytes(json.dumps(settings, indent=2).encode())


def write_events(output: RunFolder) -> None:
    """The metrics as TensorBoard event files."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        for line in read_metrics(output.metrics):
            for name, value in line.items():
                if name not in ("step", "time"):
                    writer.add_scalar(f"train/{name}", value, line["step"], walltime=line["time"])
        writer.close()
        events = output.events
        events.delete_folder()
        events.make_folder()
        for file in Path(folder).iterdir():
            (events / file.name).write_bytes(file.read_bytes())
