"""A corpus through a pool of actors: what every verb that reads rows and commits records has in common.

Opens the run or goes on with it, streams the corpus through the actors, and ends with the report and the
verdict on quarantined rows. The actor class is a callable over tables that owns a `Ledger`.
"""

import dataclasses
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from pydantic import Field, field_validator

from actors.corpus import ROWS_PER_SHARD, Corpus, CorpusSource, file_id_hashes, repeated_ids
from actors.ledger import SESSION_FILE
from actors.records import RecordStore, Totals
from actors.storage import Storage, open_storage
from jobs.driver import cluster, inputs, manifest, report
from jobs.driver.command import JobConfig, UserError
from jobs.driver.progress import Progress, RowsLine

BATCHES_PER_ACTOR: Final = 8  # at least, of a small corpus: so that actors finish together
CALLS_PER_ACTOR: Final = 4
READ_SLOTS: Final = 2


def check_range(value: str) -> str:
    """Raises ValueError unless it says how many: N, or MIN:MAX."""
    match = re.fullmatch(r"(\d+)(?::(\d+))?", value)
    if not match or int(match[1]) < 1 or int(match[2] or match[1]) < int(match[1]):
        raise ValueError("must be N or MIN:MAX with 1 <= MIN <= MAX")
    return value


def range_of(value: str) -> tuple[int, int]:
    """How many at least and at most."""
    least, _, most = value.partition(":")
    return int(least), int(most or least)


def threads_each(cpus: float | None, most: int) -> int | None:
    """CPU threads of each of `most` models; None leaves it to Ray, which knows the machine one lands on."""
    if cpus is not None:
        return max(1, int(cpus))
    return None if os.environ.get("RAY_ADDRESS") else max(1, (os.cpu_count() or 1) // most)


class PipelineConfig(JobConfig):
    """Flags of every verb that streams a corpus through actors."""

    input: str
    """File, folder or glob; a path or any URI that pyarrow or fsspec reads. JSONL or Parquet."""
    output: str
    """Folder of the run, a path or URI. The same command goes on with an unfinished run."""
    format: str
    """How to read a row."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Other names of the format's columns, as pairs: --columns question prompt solution rationale."""
    id_column: str | None = None
    """Column with ids, unique in the corpus. Without it an id is made of file and row number."""
    limit: int | None = Field(default=None, ge=1)
    """Read only the first rows."""
    num_actors: str = "1"
    """Actors: N, or MIN:MAX to scale with the load."""
    gpus_per_actor: float = Field(default=0.0, ge=0)
    """GPUs of each actor; fractions share one."""
    cpus_per_actor: float | None = Field(default=None, gt=0)
    """CPU slots, and threads, of each actor. By default 1 on a cluster; locally the actors share the cores."""
    max_quarantined: str = "100%"
    """The run fails (exit status 1) when more rows are quarantined: a number or a percentage of the rows."""

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
        """Where the actors' models live. Ray shows an actor without GPUs all of them: so it is said here."""
        return "cuda" if self.gpus_per_actor else "cpu"

    @property
    def threads_per_actor(self) -> int | None:
        """Threads of a model on CPU; None leaves it to Ray, which knows the machine an actor lands on."""
        return threads_each(self.cpus_per_actor, self.actor_range[1])


def resolve_dtype(dtype: str, device: str) -> str:
    """What `auto` means on a device: bfloat16 on a GPU, float32 on a CPU."""
    return {"auto": "bfloat16" if device == "cuda" else "float32"}.get(dtype, dtype)


Stream = Callable[[Corpus, int, Storage, str], int]  # corpus, number of rows, output, session -> rows read


@dataclass(frozen=True)
class Pipeline:
    """One run of a verb.

    `identity` is what decides the results, `stream` does the work; `doing` tells it to the user,
    `describe` adds to the progress line.
    """

    job: str
    config: PipelineConfig
    corpus: Corpus
    identity: dict[str, Any]
    doing: str
    stream: Stream
    describe: Callable[[Totals], list[str]] = lambda totals: []


def run(pipeline: Pipeline) -> int:
    """Do the work, or go on with it; the exit status. Raises UserError for what the user must mend."""
    config, corpus = pipeline.config, pipeline.corpus
    output = open_output(config.output)
    identity = {
        "input": inputs.fingerprint(corpus),
        "read": {"format": config.format, "columns": config.columns, "split": corpus.split}
        | {"id_column": config.id_column, "limit": config.limit},
        **pipeline.identity,
    }
    rows = inputs.count_rows(corpus)
    record = manifest.open_run(output, pipeline.job, identity, config.model_dump(mode="json"), command_line())
    store = RecordStore(output / "rows")
    if record.status == "finished":
        print(f"{config.output} is finished already")
        return _close(config, output, store, record)
    print(f"{pipeline.doing}: {rows.num_rows:,} rows of {config.input} -> {config.output}", flush=True)
    with ray_for(config), Progress(RowsLine(store, rows, pipeline.describe)):
        num_read = pipeline.stream(with_repeated_ids(corpus), rows.num_rows, output, record.sessions[-1].name)
    _finish(output, store, record, num_read)
    return _close(config, output, store, record)


def open_output(uri: str) -> Storage:
    """The folder behind `--output`. Raises UserError."""
    try:
        return open_storage(uri)
    except ValueError as error:
        raise UserError(str(error)) from None


def stream_through_actors(
    config: PipelineConfig,
    actor: type,
    arguments: Callable[[Storage, str], tuple[Any, ...]],
    calls_per_actor: int = CALLS_PER_ACTOR,
) -> Stream:
    """A stream that hands the corpus to a pool of `actor`, made with `arguments(output, session)`."""

    def stream(corpus: Corpus, num_rows: int, output: Storage, session: str) -> int:
        import ray.data
        from ray.data import ActorPoolStrategy

        begin_session(output, session)
        least, most = config.actor_range
        rows_per_batch = min(ROWS_PER_SHARD, max(1, math.ceil(num_rows / (most * BATCHES_PER_ACTOR))))
        dataset = ray.data.read_datasource(CorpusSource(corpus, rows_per_batch)).map_batches(
            actor,
            fn_constructor_args=arguments(output, session),
            batch_size=rows_per_batch,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=least,
                max_size=most,
                max_tasks_in_flight_per_actor=calls_per_actor,
                max_concurrent_calls_per_actor=calls_per_actor,
            ),
            num_cpus=config.cpus_per_actor or 1,
            num_gpus=config.gpus_per_actor or None,
        )
        with cluster.told_by_actors():
            batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            return sum(pa.compute.sum(batch["num_rows"]).as_py() for batch in batches)

    return stream


def begin_session(output: Storage, session: str) -> None:
    """From here on no other session may write to the run."""
    (output / SESSION_FILE).write_bytes(session.encode())


def with_repeated_ids(corpus: Corpus) -> Corpus:
    """With an id column, first look for ids that stand there twice: a task a file, 16 bytes a row."""
    if corpus.id_column is None:
        return corpus
    import ray

    hashes = ray.remote(file_id_hashes)
    refs = [hashes.remote(file, corpus.id_column, corpus.limit) for file in corpus.files]
    parts = [(file.name, *ray.get(ref)) for file, ref in zip(corpus.files, refs, strict=True)]
    return dataclasses.replace(corpus, repeated=repeated_ids(parts))


@contextmanager
def ray_for(config: PipelineConfig) -> Iterator[None]:
    """Ray for this run, which must have what its actors ask for or be able to grow."""
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


def _finish(output: Storage, store: RecordStore, record: manifest.Manifest, num_read: int) -> None:
    totals = store.totals()
    if totals.num_rows != num_read:
        raise RuntimeError(f"{num_read} rows were read but {totals.num_rows} are recorded in {output.path}")
    record.status = "finished"
    record.num_input_rows = num_read
    record.totals = totals.as_dict()
    record.sessions[-1].finished_at = time.time()
    record.save(output)
    store.sweep()
    (output / SESSION_FILE).delete_file()
    (output / "_journal").delete_folder()


def _close(config: PipelineConfig, output: Storage, store: RecordStore, record: manifest.Manifest) -> int:
    """Report, summary, and the verdict on quarantined rows."""
    facts = report.write_report(output, record)
    print(report.summary(facts, config.output, record))
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


def command_line() -> str:
    """What a person would type to run this again."""
    verb = os.path.basename(sys.argv[0]).removesuffix(".py").removeprefix("sluice ")
    return f"python -m jobs.{verb} " + shlex.join(sys.argv[1:])
