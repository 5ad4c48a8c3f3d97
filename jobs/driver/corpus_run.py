"""A corpus through a pool of workers: the common part of every verb that reads rows and commits records.

Starts or resumes the run, streams the corpus through the workers, writes the report, and checks the number of
quarantined rows. A worker is a class of `actors` whose instances are callables over tables and own a `Ledger`.
"""

import dataclasses
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow.compute as pc
from pydantic import Field, field_validator

from actors.errors import UserError
from actors.runs import manifest
from actors.runs.corpus import ROWS_PER_SHARD, Corpus, CorpusSource, file_id_hashes, repeated_ids
from actors.runs.folder import RunFolder, open_run_folder
from actors.runs.records import RecordStore, Totals
from actors.runs.session import begin_session
from actors.runs.worker import RowWorker
from algorithms.formats import Use, formats_for
from jobs.driver import cluster, inputs
from jobs.driver.command import JobConfig, command_line, listed
from jobs.driver.progress import Progress, RowsLine
from jobs.reports import page

BATCHES_PER_ACTOR: Final = 8  # at least, so that the actors of a small corpus finish together
CALLS_PER_ACTOR: Final = 4
# Ray adds actors only while each has 1.75 times as many tasks as it may work on at once, so some must wait.
TASKS_PER_ACTOR: Final = 2 * CALLS_PER_ACTOR
READ_SLOTS: Final = 2


def check_range(value: str) -> str:
    """Raise ValueError unless `value` is N or MIN:MAX."""
    match = re.fullmatch(r"(\d+)(?::(\d+))?", value)
    if not match or int(match[1]) < 1 or int(match[2] or match[1]) < int(match[1]):
        raise ValueError("must be N or MIN:MAX with 1 <= MIN <= MAX")
    return value


def range_of(value: str) -> tuple[int, int]:
    """The bounds in N or MIN:MAX."""
    least, _, most = value.partition(":")
    return int(least), int(most or least)


def threads_each(cpus: float | None, most: int) -> int | None:
    """CPU threads of each of `most` models. None leaves the number to Ray, which knows the node."""
    if cpus is not None:
        return max(1, int(cpus))
    return None if os.environ.get("RAY_ADDRESS") else max(1, (os.cpu_count() or 1) // most)


def format_help(use: Use) -> str:
    """The help of `--format`: every format that a verb can read."""
    return listed("How to read a row.", {name: each.description for name, each in formats_for(use).items()})


class CorpusConfig(JobConfig):
    """Flags of every verb that streams a corpus through actors."""

    input: str
    """File, folder or glob of JSONL or Parquet: a path, or any URI that pyarrow or fsspec reads."""
    output: str
    """Folder of the run, a path or URI. Repeat the command to resume an unfinished run."""
    format: str
    """How to read a row."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Rename the format's columns, in pairs: --columns question prompt solution rationale."""
    id_column: str | None = None
    """Column with unique ids. By default an id consists of file name and row number."""
    limit: int | None = Field(default=None, ge=1)
    """Read only the first rows."""
    num_actors: str = "1"
    """Number of actors: N, or MIN:MAX to scale with the load."""
    gpus_per_actor: float = Field(default=0.0, ge=0)
    """GPUs of each actor. Actors with a fraction share a GPU."""
    cpus_per_actor: float | None = Field(default=None, gt=0)
    """CPU slots and threads of each actor. Default: 1 on a cluster, an equal share of the cores locally."""
    max_quarantined: str = "100%"
    """Fail (exit status 1) if more rows than this are quarantined: a number, or a percentage of the rows."""

    _check_num_actors = field_validator("num_actors")(check_range)

    @field_validator("max_quarantined")
    @classmethod
    def _check_max_quarantined(cls, value: str) -> str:
        if not re.fullmatch(r"\d+|\d+(\.\d+)?%", value) or (value.endswith("%") and float(value[:-1]) > 100):
            raise ValueError("must be a number of rows such as 20, or a percentage such as 1%")
        return value

    @property
    def actor_range(self) -> tuple[int, int]:
        """Actors at least and at most."""
        return range_of(self.num_actors)

    @property
    def device(self) -> str:
        """The device of the actors' models. An actor without GPUs still sees them all, so it must be told."""
        return "cuda" if self.gpus_per_actor else "cpu"

    @property
    def threads_per_actor(self) -> int | None:
        """Threads of a model on a CPU. None leaves the number to Ray, which knows the node."""
        return threads_each(self.cpus_per_actor, self.actor_range[1])


def resolve_dtype(dtype: str, device: str) -> str:
    """The dtype that `auto` stands for: bfloat16 on a GPU, float32 on a CPU."""
    return {"auto": "bfloat16" if device == "cuda" else "float32"}.get(dtype, dtype)


Stream = Callable[[Corpus, int, RunFolder, str], int]  # corpus, number of rows, run, session -> rows read


@dataclass(frozen=True)
class CorpusRun:
    """One run of a verb.

    `identity` holds everything that decides the results, `stream` does the work, `doing` describes it to the user, and
    `describe` adds to the progress line.
    """

    job: str
    config: CorpusConfig
    corpus: Corpus
    identity: dict[str, Any]
    doing: str
    stream: Stream
    describe: Callable[[Totals], list[str]] = lambda totals: []


def run(this: CorpusRun) -> int:
    """Start or resume a run. Returns the exit status, and raises UserError if the user must change something."""
    config, corpus = this.config, this.corpus
    output = open_run_folder(config.output)
    identity = {
        "input": inputs.fingerprint(corpus),
        "read": {"format": config.format, "columns": config.columns, "split": corpus.split}
        | {"id_column": config.id_column, "limit": config.limit},
        **this.identity,
    }
    rows = inputs.count_rows(corpus)
    record = manifest.open_run(output, this.job, identity, config.model_dump(mode="json"), command_line())
    store = RecordStore(output.rows)
    if record.status == "finished":
        print(f"{config.output} is already finished")
        return _close(config, output, store, record)
    print(f"{this.doing}: {rows.num_rows:,} rows of {config.input} -> {config.output}", flush=True)
    with ray_for(config), Progress(RowsLine(store, rows, this.describe)):
        num_read = this.stream(with_repeated_ids(corpus), rows.num_rows, output, record.sessions[-1].name)
    _finish(output, store, record, num_read)
    return _close(config, output, store, record)


def stream_through_workers(
    config: CorpusConfig, worker: type, arguments: Callable[[RunFolder, str], tuple[Any, ...]]
) -> Stream:
    """A stream through a pool of `worker`, a class of `actors` that is built with `arguments(run, session)`."""

    def stream(corpus: Corpus, num_rows: int, output: RunFolder, session: str) -> int:
        import ray.data
        from ray.data import ActorPoolStrategy

        begin_session(output, session)
        least, most = config.actor_range
        rows_per_batch = min(ROWS_PER_SHARD, max(1, math.ceil(num_rows / (most * BATCHES_PER_ACTOR))))
        # Ray merges small tables into blocks of 128 MiB. A task must be one batch, whatever the size of the input.
        blocks = ray.data.read_datasource(CorpusSource(corpus, rows_per_batch)).repartition(
            target_num_rows_per_block=rows_per_batch
        )
        dataset = blocks.map_batches(
            RowWorker,
            fn_constructor_args=(worker, *arguments(output, session)),
            batch_size=rows_per_batch,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=least,
                max_size=most,
                max_tasks_in_flight_per_actor=TASKS_PER_ACTOR,
                max_concurrent_calls_per_actor=CALLS_PER_ACTOR,
            ),
            num_cpus=config.cpus_per_actor or 1,
            num_gpus=config.gpus_per_actor or None,
        )
        with cluster.worker_errors():
            batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            return sum(pc.sum(batch["num_rows"]).as_py() for batch in batches)

    return stream


def with_repeated_ids(corpus: Corpus) -> Corpus:
    """The corpus with its repeated ids, if it has an id column. Uses a task for each file and 16 bytes a row."""
    if corpus.id_column is None:
        return corpus
    import ray

    hashes = ray.remote(file_id_hashes)
    refs = [hashes.remote(file, corpus.id_column, corpus.limit) for file in corpus.files]
    parts = [(file.name, *ray.get(ref)) for file, ref in zip(corpus.files, refs, strict=True)]
    return dataclasses.replace(corpus, repeated=repeated_ids(parts))


@contextmanager
def ray_for(config: CorpusConfig) -> Iterator[None]:
    """Ray for this run. Raises UserError if a local Ray lacks the GPUs that the actors ask for."""
    least, most = config.actor_range
    cpus = config.cpus_per_actor or 1
    slots = max(os.cpu_count() or 1, math.ceil(most * cpus)) + READ_SLOTS
    with cluster.connect(slots) as joined:
        gpus = joined.resources.get("GPU", 0.0)
        if joined.is_local and gpus < least * config.gpus_per_actor:
            raise UserError(
                f"--gpus-per-actor {config.gpus_per_actor:g} for {least} actor(s): this machine has {gpus:g} GPUs. "
                "Lower it, or join a cluster through RAY_ADDRESS"
            )
        if gpus < least * config.gpus_per_actor:
            print(
                f"waiting for {least * config.gpus_per_actor:g} GPUs, the cluster has {gpus:g} now",
                file=sys.stderr,
            )
        yield


def _finish(output: RunFolder, store: RecordStore, record: manifest.Manifest, num_read: int) -> None:
    totals = store.totals()
    if totals.num_rows != num_read:
        raise RuntimeError(f"{num_read} rows were read but {totals.num_rows} are recorded in {output.path}")
    record.status = "finished"
    record.num_input_rows = num_read
    record.totals = totals.as_dict()
    record.sessions[-1].finished_at = time.time()
    record.save(output)
    store.sweep()
    output.session.delete_file()
    output.journal.delete_folder()


def _close(config: CorpusConfig, output: RunFolder, store: RecordStore, record: manifest.Manifest) -> int:
    """Write the report, print the summary, and check the number of quarantined rows. Returns the exit status."""
    facts = page.write_report(output, record)
    print(page.summary(facts, config.output, record))
    totals = store.totals()
    quarantined, num_rows = totals.statuses["quarantined"], totals.num_rows
    limit = config.max_quarantined
    allowed = float(limit[:-1]) / 100 * num_rows if limit.endswith("%") else float(limit)
    if quarantined > allowed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["quarantined_by_reason"].items())
        print(
            f"{record.job}: {quarantined:,} of {num_rows:,} rows are quarantined ({reasons}), "
            f"more than --max-quarantined {limit} allows",
            file=sys.stderr,
        )
        return 1
    return 0
