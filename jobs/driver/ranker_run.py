"""What training a ranker of any kind shares: graded samples -> examples in the run's folder -> Ray Train -> a ranker.

A run that stops keeps its examples and the last checkpoint. Its command, repeated, goes on from there.
"""

import contextlib
import json
import pickle
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from actors.errors import UserError
from actors.ranking.examples import Describe, read_examples
from actors.runs import manifest
from actors.runs.corpus import Corpus
from actors.runs.folder import TRAIN_STATE, RunFolder, open_run_folder
from actors.runs.session import begin_session
from algorithms.splits import SPLITS
from jobs.driver import cluster, corpus_run, inputs, reading
from jobs.driver.attempts import Attempts
from jobs.driver.command import JobConfig, command_line
from jobs.driver.progress import Progress
from jobs.driver.training_fit import drop_broken_state
from jobs.reports import page

JOB: Final = "ranker"


class RankerRunConfig(JobConfig):
    """Flags of every kind of ranker."""

    data: tuple[str, ...] = Field(min_length=1)
    """Runs of jobs.grade, as paths or URIs. Trains on their split train, calibrates on validation, measures on
    held_out."""
    output: str
    """Folder of the run, a path or URI. The ranker is in OUTPUT/ranker."""
    num_workers: int = Field(default=1, ge=1)
    """Number of workers. Each holds its part of the examples in memory."""
    cpus_per_worker: float | None = Field(default=None, gt=0)
    """CPU slots and threads of each worker. Default: 1 on a cluster, an equal share of the cores locally."""
    wait_for_resources: float = Field(default=0.0, ge=0, description=cluster.WAIT_HELP.format("workers"))
    max_failures: int = Field(default=3, ge=0)
    """How often workers may die before the run stops."""
    seed: int = 0
    """Seed of all that is random."""

    @property
    def threads_per_worker(self) -> int | None:
        """Threads of a worker on a CPU. None leaves the number to Ray."""
        return corpus_run.threads_each(self.cpus_per_worker, self.num_workers)


Trainer = Callable[[RunFolder, str, dict[str, Any]], Any]


@dataclass(frozen=True)
class RankerRun:
    """One run.

    `plan` holds everything but the data that decides the ranker. `describe` makes the examples' own columns, and
    `schema` types them. `check` raises UserError if the counts of the examples will not do. `trainer` builds a trainer
    of Ray Train from the run, the session and the arguments that all trainers share. `line` describes its progress.
    """

    config: RankerRunConfig
    corpora: tuple[Corpus, ...]
    plan: dict[str, Any]
    describe: Describe
    schema: pa.Schema
    trainer: Trainer
    gpus: float = 0.0
    check: Callable[[dict[str, Any]], None] = lambda counts: None
    line: Callable[[RunFolder], Callable[[], str]] | None = None


def open_data(config: RankerRunConfig) -> tuple[Corpus, ...]:
    """The graded runs behind --data. Raises UserError if one of them is none."""
    return tuple(inputs.open_corpus(uri, "graded", {}, None, None, None, flag="--data") for uri in config.data)


def run(this: RankerRun) -> int:
    """Train, or resume training. Returns the exit status."""
    config = this.config
    output = open_run_folder(config.output)
    identity = {"data": [inputs.fingerprint(corpus) for corpus in this.corpora], **this.plan}
    record = manifest.open_run(output, JOB, identity, config.model_dump(mode="json"), command_line())
    if record.status == "finished":
        print(f"{config.output} is already finished")
        return _close(config, output, record)
    session = record.sessions[-1].name
    print(f"training a ranker on {', '.join(config.data)} -> {config.output}", flush=True)
    begin_session(output, session)
    ask = cluster.Ask(config.cpus_per_worker or 1, this.gpus)
    flags = "--num-workers or --gpus-per-worker"
    with corpus_run.ray_with(config.num_workers, config.num_workers, ask, config.wait_for_resources, flags):
        cluster.check_output(output, session)
        counts = _prepare(this, output)
        print(f"{_samples(counts)}; workers are starting", flush=True)
        with Progress(this.line(output)) if this.line else contextlib.nullcontext():
            _fit(this, output, session)
    record.status = "finished"
    record.totals = counts
    record.sessions[-1].finished_at = time.time()
    record.save(output)
    output.session.delete_file()
    output.train_state.delete_folder()
    output.examples.delete_folder()
    return _close(config, output, record)


def _prepare(this: RankerRun, output: RunFolder) -> dict[str, Any]:
    """Write the examples to the run's folder, unless they are there. Returns their counts."""
    import ray.data

    if output.examples_done.exists():
        return json.loads(output.examples_done.read_bytes())
    output.examples.delete_folder()
    output.examples.make_folder()
    numbered = [(corpus, part) for corpus in this.corpora for part in reading.plan_reading(corpus)]
    given = [
        pa.table({"part": [pickle.dumps((corpus.only(part.file), number, part))]})
        for number, (corpus, part) in enumerate(numbered)
    ]
    read: Any = read_examples
    with cluster.worker_errors():
        ray.data.from_arrow(given).map_batches(
            read, batch_size=1, fn_kwargs={"describe": this.describe, "schema": this.schema}
        ).write_parquet(output.examples.path, filesystem=output.examples.filesystem)  # fmt: skip
    counts = _counts(this, output)
    for split in ("train", "validation"):
        right, wrong = (counts["grades"][split][name] for name in ("right", "wrong"))
        if not (right and wrong):
            raise UserError(
                f"--data: a ranker needs right and wrong samples in the split {split}, got {right} and {wrong} of "
                f"{sum(counts[name] for name in SPLITS)}: grade more problems, or with other --splits"
            )
    this.check(counts)
    output.examples_done.write_bytes(json.dumps(counts, indent=2).encode())
    return counts


def _counts(this: RankerRun, output: RunFolder) -> dict[str, Any]:
    """The examples of each split, of each grade, those cut to the window, and the problems with pairs."""
    has_window = "is_cut" in this.schema.names
    columns = ["split", "problem", "right", "unused", *(["is_cut"] if has_window else [])]
    files = [file.path for file in output.examples.files()]
    read = [pq.read_table(path, filesystem=output.examples.filesystem, columns=columns) for path in files]
    table = pa.concat_tables([pa.schema([this.schema.field(name) for name in columns]).empty_table(), *read])
    counts: dict[str, Any] = {"grades": {}, "problems_with_pairs": {}}
    for split in SPLITS:
        rows = table.filter(pc.equal(table["split"], split))
        by_problem = rows.group_by("problem").aggregate([("right", "min"), ("right", "max")])
        right = pc.sum(rows["right"]).as_py() or 0
        counts[split] = rows.num_rows
        counts["grades"][split] = {"right": right, "wrong": rows.num_rows - right}
        mixed = pc.sum(pc.not_equal(by_problem["right_min"], by_problem["right_max"]))
        counts["problems_with_pairs"][split] = mixed.as_py() or 0
        if has_window:
            counts.setdefault("cut", {})[split] = pc.sum(rows["is_cut"]).as_py() or 0
    return counts | {"unused": dict(Counter(table["unused"].drop_null().to_pylist()).most_common())}


def _samples(counts: dict[str, Any]) -> str:
    """The samples to train on, in words."""
    told = f"{counts['train']:,} samples to train on"
    if "cut" in counts:
        told += f"; {sum(counts['cut'].values()):,} of {sum(counts[name] for name in SPLITS):,} are cut to the window"
    return told


def interruptible(trainer: type) -> Any:
    """A trainer of Ray Train that leaves Ctrl-C to the command. Ray Train would exit with status 0, or with a trace."""
    return type(trainer.__name__, (trainer,), {"_register_sigint_handler": lambda self, controller: None})


def _fit(this: RankerRun, output: RunFolder, session: str) -> None:
    import ray.train
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

    config = this.config
    resources = {"CPU": config.cpus_per_worker or 1, **({"GPU": this.gpus} if this.gpus else {})}
    shared = {
        "scaling_config": ScalingConfig(
            num_workers=config.num_workers, use_gpu=this.gpus > 0, resources_per_worker=resources
        ),
        "run_config": RunConfig(
            name=TRAIN_STATE,
            storage_path=output.path,
            storage_filesystem=output.root.filesystem,
            failure_config=FailureConfig(max_failures=0),  # but any number of preempted nodes; `Attempts` counts
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    }
    attempts = Attempts(config.max_failures)
    while True:
        drop_broken_state(output)
        try:
            this.trainer(output, session, shared).fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            attempts.check(error)
        else:
            return


def _close(config: RankerRunConfig, output: RunFolder, record: manifest.Manifest) -> int:
    facts = page.write_report(output, record)
    print(page.summary(facts, config.output, record))
    print(f"ranker      {output.ranker.path}")
    return 0
