"""The loop of a Ray Train worker: its shard of the examples, the trainer, checkpoints and metrics.

A checkpoint holds the adapter and the state of its training, never the base model.
"""

import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.train
from ray.train import Checkpoint

from actors.adapter_trainer import AdapterTrainer, NotFinite, TrainingPlan
from actors.examples import EXAMPLE_SCHEMA
from actors.ledger import check_session
from actors.storage import Storage

METRICS_FILE = "metrics.jsonl"
STOPPED_FILE = "_stopped"


@dataclass
class MetricsLog:
    """What was logged at each step, as lines of JSON in the run's folder; written by one worker.

    Lines after the step that training goes on from are dropped: those steps come again.
    """

    file: Storage
    lines: list[dict[str, Any]] = field(default_factory=list)

    def go_on_from(self, step: int) -> None:
        """Keep what earlier processes logged up to a step."""
        self.lines = [line for line in read_metrics(self.file) if line["step"] <= step]

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of a step."""
        self.lines.append({"step": step, "time": time.time(), **metrics})
        self.file.write_bytes("".join(json.dumps(line) + "\n" for line in self.lines).encode())


def read_metrics(file: Storage) -> list[dict[str, Any]]:
    """The lines of a metrics file; none if it is not there yet."""
    try:
        return [json.loads(line) for line in file.read_bytes().splitlines()]
    except FileNotFoundError:
        return []


def train_worker(config: dict[str, Any]) -> None:
    """Train on this worker's shard, from the last checkpoint on."""
    plan: TrainingPlan = config["plan"]
    run: Storage = config["run"]
    session: str = config["session"]
    shards = {name: _shard(name, size) for name, size in config["sizes"].items()}
    context = ray.train.get_context()
    is_first = context.get_world_rank() == 0
    log = MetricsLog(run / METRICS_FILE)
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
                    log.go_on_from(state["global_step"])
                    trainer.train(resume_from_checkpoint=saved)
        except NotFinite as error:
            # Not a failure that trying again would mend: all workers end here, and the driver tells it.
            if is_first:
                (run / STOPPED_FILE).write_bytes(str(error).encode())


def _shard(name: str, size: int) -> pa.Table:
    """This worker's part of a dataset of `size` rows: the k-th n-th of them, whenever it is asked.

    Ray's own split depends on timing, and with elastic workers on who is there.
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
    assert seen == size, "all examples pass by each worker"
    return pa.concat_tables(tables)
