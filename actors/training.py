"""The loop of a Ray Train worker: its shard of the examples, the trainer, checkpoints and metrics.

Shards are cut from the sorted examples, so that a run that starts again has the same ones. A checkpoint holds the
adapter and the state of its training, never the base model.
"""

import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.train
from ray.train import Checkpoint, DataConfig

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


class EvenShards(DataConfig):
    """Gives worker k of n the k-th n-th of each dataset, whenever it is asked: Ray's own split depends on timing."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, worker_handles: Any, worker_node_ids: Any, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """The shards of each worker."""
        shards: list[dict[str, Any]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            rows = dataset.materialize()
            size = rows.count()
            cuts = [size * rank // world_size for rank in range(1, world_size)]
            for rank, part in enumerate(rows.split_at_indices(cuts) if cuts else [rows]):
                shards[rank][name] = part.iterator()
        return shards


def train_worker(config: dict[str, Any]) -> None:
    """Train on this worker's shard, from the last checkpoint on."""
    plan: TrainingPlan = config["plan"]
    run: Storage = config["run"]
    session: str = config["session"]
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
            _shard("train"),
            Path(folder),
            validation=_shard("validation") if config["has_validation"] else None,
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


def _shard(name: str) -> pa.Table:
    batches = ray.train.get_dataset_shard(name).iter_batches(batch_size=None, batch_format="pyarrow")
    tables = [batch.select(EXAMPLE_SCHEMA.names).cast(EXAMPLE_SCHEMA) for batch in batches]
    return pa.concat_tables(tables) if tables else EXAMPLE_SCHEMA.empty_table()
