"""The loop of a Ray Train worker: its shard of the examples, the trainer, checkpoints and metrics.

A checkpoint holds the adapter and the state of its training, not the base model.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.train
from ray.train import Checkpoint

from actors.errors import NonFiniteLoss
from actors.runs.folder import RunFolder
from actors.runs.metrics import MetricsLog
from actors.runs.session import check_session
from actors.training.examples import EXAMPLE_SCHEMA
from actors.training.trainer import AdapterTrainer, TrainingPlan


def train_worker(config: dict[str, Any]) -> None:
    """Train on this worker's shard, from the last checkpoint on."""
    plan: TrainingPlan = config["plan"]
    run: RunFolder = config["run"]
    session: str = config["session"]
    shards = {name: _shard(name, size) for name, size in config["sizes"].items()}
    context = ray.train.get_context()
    is_first = context.get_world_rank() == 0
    log = MetricsLog(run.metrics)
    latest: dict[str, float] = {}

    def on_log(step: int, metrics: dict[str, float]) -> None:
        latest.update(metrics)
        if is_first:
            log.add(step, metrics)

    def on_save(step: int, folder: Path) -> None:
        check_session(run, session)
        saved = Checkpoint.from_directory(folder) if any(folder.iterdir()) else None
        ray.train.report({"step": step, **latest}, checkpoint=saved)

    with tempfile.TemporaryDirectory() as folder:
        trainer = AdapterTrainer(
            plan,
            shards["train"],
            Path(folder),
            validation=shards.get("validation"),
            world_size=context.get_world_size(),
            on_log=on_log,
            on_save=on_save,
        )
        checkpoint = ray.train.get_checkpoint()
        try:
            if checkpoint is None:
                trainer.train()
            else:
                with checkpoint.as_directory() as saved:
                    state = json.loads((Path(saved) / "trainer_state.json").read_text("utf-8"))
                    log.resume_at(state["global_step"])
                    trainer.train(resume_from_checkpoint=saved)
        except NonFiniteLoss as error:
            # Another attempt would fail again. All workers end here, and the driver reports the error.
            if is_first:
                run.stopped.write_bytes(str(error).encode())


def _shard(name: str, size: int) -> pa.Table:
    """This worker's part of a dataset of `size` rows: always the same rows for the same rank and number of workers.

    Ray's own split depends on timing and, with elastic workers, on which of them are there.
    """
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    first, end = size * rank // world_size, size * (rank + 1) // world_size
    tables, seen = [EXAMPLE_SCHEMA.empty_table()], 0
    for batch in ray.train.get_dataset_shard(name).iter_batches(batch_size=None, batch_format="pyarrow"):
        begin, stop = (min(max(row - seen, 0), batch.num_rows) for row in (first, end))
        if begin < stop:
            tables.append(batch.slice(begin, stop - begin).select(EXAMPLE_SCHEMA.names).cast(EXAMPLE_SCHEMA))
        seen += batch.num_rows
    assert seen == size, "each worker reads all examples"
    return pa.concat_tables(tables)
