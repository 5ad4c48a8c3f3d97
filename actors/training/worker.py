"""The loop of a Ray Train worker: its part of the examples, the trainer, checkpoints and metrics.

A checkpoint holds the adapter and the state of its training, not the base model.
"""

import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint

from actors.errors import NonFiniteLoss
from actors.runs.folder import RunFolder
from actors.runs.metrics import MetricsLog
from actors.runs.session import check_session
from actors.training.shards import ExampleFile, range_of, read_rows
from actors.training.trainer import AdapterTrainer, TrainingPlan


def train_worker(config: dict[str, Any]) -> None:
    """Train on this worker's part of the examples, from the last checkpoint on.

    `config` holds the plan, the run, the session, the files of examples, and the sizes of the parts that they have.
    """
    plan: TrainingPlan = config["plan"]
    run: RunFolder = config["run"]
    session: str = config["session"]
    files: tuple[ExampleFile, ...] = config["files"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    tables = {
        part: read_rows(run.examples, files, part, *range_of(rank, world_size, size))
        for part, size in config["sizes"].items()
    }
    is_first = rank == 0
    log = MetricsLog(run.metrics)
    latest: dict[str, float] = {}

    def on_log(step: int, metrics: dict[str, float]) -> None:
        latest.update(metrics)
        if is_first:
            log.add(step, metrics)

    def on_save(step: int, folder: Path) -> None:
        check_session(run, session)
        if is_first:
            log.flush()  # before the checkpoint: what comes after it is logged again
        saved = Checkpoint.from_directory(folder) if any(folder.iterdir()) else None
        ray.train.report({"step": step, **latest}, checkpoint=saved)

    with tempfile.TemporaryDirectory() as folder:
        trainer = AdapterTrainer(
            plan,
            tables["train"],
            Path(folder),
            validation=tables.get("validation"),
            world_size=world_size,
            on_log=on_log,
            on_save=on_save,
        )
        checkpoint = ray.train.get_checkpoint()
        try:
            with checkpoint.as_directory() if checkpoint else nullcontext() as saved:
                if is_first:
                    log.resume_at(_step_of(saved))
                trainer.train(resume_from_checkpoint=saved)
        except NonFiniteLoss as error:
            # Another attempt would fail again. All workers end here, and the driver reports the error.
            if is_first:
                run.stopped.write_bytes(str(error).encode())
        if is_first:
            log.flush()


def _step_of(checkpoint: str | None) -> int:
    """The step that a checkpoint was saved at."""
    if checkpoint is None:
        return 0
    return int(json.loads((Path(checkpoint) / "trainer_state.json").read_text("utf-8"))["global_step"])
