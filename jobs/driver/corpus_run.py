"""A corpus through a pool of workers: the common part of every verb that reads rows and commits records.

Starts or resumes the run, streams the corpus through the workers, writes the report, and checks the number of
quarantined rows. A worker is a class of `actors` whose instances are callables over tables and own a `Ledger`.
"""

import contextlib
import math
import os
import pickle
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from actors.errors import StorageLost, UserError
from actors.runs import manifest
from actors.runs.corpus import ROWS_PER_SHARD, Corpus, Part, read_part
from actors.runs.folder import RunFolder, open_run_folder
from actors.runs.journal import drop_committed, forgive
from actors.runs.merging import MergeTask, clear, merge, run_merge
from actors.runs.record_kinds import RecordKind
from actors.runs.records import RecordStore, ShardIds
from actors.runs.session import begin_session, check_session
from actors.runs.totals import Totals
from actors.runs.worker import RowWorker
from algorithms.formats import Use, formats_for
from jobs.driver import cluster, inputs, reading
from jobs.driver.command import JobConfig, command_line, listed
from jobs.driver.progress import Progress, RowsLine, Watch
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


class InputFlags(JobConfig):
    """What is read, and where the records go."""

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
    max_quarantined: str = "100%"
    """Fail (exit status 1) if more rows than this are quarantined: a number, or a percentage of the rows."""

    @field_validator("max_quarantined")
    @classmethod
    def _check_max_quarantined(cls, value: str) -> str:
        if not re.fullmatch(r"\d+|\d+(\.\d+)?%", value) or (value.endswith("%") and float(value[:-1]) > 100):
            raise ValueError("must be a number of rows such as 20, or a percentage such as 1%")
        return value


class ActorFlags(JobConfig):
    """The actors of a verb, and what each asks for."""

    num_actors: str = "1"
    """Number of actors: N, or MIN:MAX to scale with the load."""
    gpus_per_actor: float = Field(default=0.0, ge=0)
    """GPUs of each actor. Actors with a fraction share a GPU."""
    cpus_per_actor: float | None = Field(default=None, gt=0)
    """CPU slots and threads of each actor. Default: 1 on a cluster, an equal share of the cores locally."""
    wait_for_resources: float = Field(default=0.0, ge=0, description=cluster.WAIT_HELP.format("actors"))

    _check_num_actors = field_validator("num_actors")(check_range)

    @property
    def actor_range(self) -> tuple[int, int]:
        """Actors at least and at most."""
        return range_of(self.num_actors)

    @property
    def ask(self) -> cluster.Ask:
        """What each actor asks of the cluster."""
        return cluster.Ask(self.cpus_per_actor or 1, self.gpus_per_actor)

    @property
    def device(self) -> str:
        """The device of the actors' models. An actor without GPUs still sees them all, so it must be told."""
        return "cuda" if self.gpus_per_actor else "cpu"

    @property
    def threads_per_actor(self) -> int | None:
        """Threads of a model on a CPU. None leaves the number to Ray, which knows the node."""
        return threads_each(self.cpus_per_actor, self.actor_range[1])


class CorpusConfig(ActorFlags, InputFlags):
    """Flags of every verb that streams a corpus through actors."""


@dataclass(frozen=True)
class Pool:
    """A pool of workers: `worker` is a class of `actors`, built with `arguments(run, session)`.

    `rows_at_once` is the number of rows that a worker holds at once: Ray hands it about that many a call.
    """

    worker: type
    kind: RecordKind
    arguments: Callable[[RunFolder, str], tuple[Any, ...]]
    rows_at_once: int


@dataclass(frozen=True)
class CorpusRun:
    """One run of a verb.

    `identity` holds everything that decides the results, `pool` does the work, `doing` describes it to the user,
    `describe` adds to the progress line, and `seen_by_nodes` names local paths that all nodes must see, by flag.
    """

    job: str
    config: CorpusConfig
    corpus: Corpus
    identity: dict[str, Any]
    doing: str
    pool: Pool
    describe: Callable[[Totals], list[str]] = lambda totals: []
    seen_by_nodes: tuple[tuple[str, str], ...] = ()


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
    estimate = inputs.estimate_rows(corpus)
    record = manifest.open_run(output, this.job, identity, config.model_dump(mode="json"), command_line())
    if record.status == "finished":
        clear(output)  # a run that was killed here left it behind
        print(f"{config.output} is already finished")
        return _close(config, output, record)
    about = "" if estimate.is_exact else "about "
    print(f"{this.doing}: {about}{estimate.num_rows:,} rows of {config.input} -> {config.output}", flush=True)
    session = record.sessions[-1].name
    at_work = output.patient()
    begin_session(at_work, session)
    try:
        with ray_for(config):
            _check_visible(this, output, session)
            totals = _work(this, at_work, session, estimate)
    except (KeyboardInterrupt, StorageLost):
        with contextlib.suppress(OSError):
            forgive(output.journal, session)
        raise
    check_session(at_work, session)  # another command may have begun to merge as well
    record.status = "finished"
    record.num_input_rows = totals.num_rows
    record.totals = totals.as_dict()
    record.sessions[-1].finished_at = time.time()
    record.save(at_work)
    clear(at_work)
    return _close(config, output, record)


def _work(this: CorpusRun, output: RunFolder, session: str, estimate: inputs.RowCount) -> Totals:
    """Everything that needs Ray: read, work, merge. Returns the totals of the run's records."""
    store = RecordStore(output)
    commits = store.recover(session)
    drop_committed(output.journal, ShardIds(output.committed, this.pool.kind.row_column).of)
    parts = reading.plan_reading(this.corpus)
    counts = [part.num_rows for part in parts]
    rows = estimate if None in counts else inputs.RowCount(sum(count or 0 for count in counts), is_exact=True)
    corpus = reading.with_repeated_ids(this.corpus, parts)
    left = reading.without_done(parts, commits)
    told = RecordStore(output.hasty())  # nobody waits for minutes to be told how far the run is
    watch = Watch(output, told, session, this.config.ask, this.config.actor_range[0])
    with Progress(RowsLine(told, rows, session, this.describe), watch):
        num_rows = left.num_done + stream(this.config, this.pool, corpus, left.parts, rows.num_rows, output, session)
        totals = _merged(this.pool.kind, output, session)
        if totals.num_rows < num_rows:
            # A row that was committed twice made its shard look whole. Give the workers every row: they know the rest.
            output.rows.delete_folder()
            num_rows = stream(this.config, this.pool, corpus, parts, rows.num_rows, output, session)
            totals = _merged(this.pool.kind, output, session)
    if totals.num_rows != num_rows:
        raise RuntimeError(f"{num_rows} rows were read but {totals.num_rows} are recorded in {output.path}")
    return totals


def stream(
    config: CorpusConfig,
    pool: Pool,
    corpus: Corpus,
    parts: Sequence[Part],
    num_rows: int,
    output: RunFolder,
    session: str,
) -> int:
    """Stream parts of a corpus through a pool of workers. Returns the number of rows once all are committed.

    `num_rows` is about the number of all rows.
    """
    import ray.data
    from ray.data import ActorPoolStrategy

    if not parts:
        return 0
    least, most = config.actor_range
    rows_per_batch = min(ROWS_PER_SHARD, pool.rows_at_once, max(1, math.ceil(num_rows / (most * BATCHES_PER_ACTOR))))
    given = [pa.table({"part": [pickle.dumps((corpus.only(part.file), part, rows_per_batch))]}) for part in parts]
    read: Any = read_part
    # Ray merges small tables into blocks of 128 MiB. A task must be one batch, whatever the size of the input.
    blocks = (
        ray.data.from_arrow(given)
        .map_batches(read, batch_size=1)  # asks for what `repartition` asks for, so that Ray fuses them
        .repartition(target_num_rows_per_block=rows_per_batch)
    )
    dataset = blocks.map_batches(
        RowWorker,
        fn_constructor_args=(pool.worker, *pool.arguments(output, session)),
        batch_size=rows_per_batch,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_tasks_in_flight_per_actor=TASKS_PER_ACTOR,
            max_concurrent_calls_per_actor=CALLS_PER_ACTOR,
        ),
        num_cpus=config.ask.cpus,
        num_gpus=config.ask.gpus or None,
    )
    with cluster.worker_errors():
        batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        return sum(pc.sum(batch["num_rows"]).as_py() for batch in batches)


def _merged(kind: RecordKind, output: RunFolder, session: str) -> Totals:
    """Merge what is committed into the run's `rows`, a task for each file."""
    import ray

    def run_all(tasks: Sequence[MergeTask]) -> Iterable[Totals]:
        call = ray.remote(run_merge)
        return ray.get([call.remote(task) for task in tasks])

    check_session(output, session)
    if output.rows_done.exists():  # by a command that finished after this one had begun
        return RecordStore(output).totals()
    try:
        with cluster.worker_errors():
            return merge(output, kind, run_all, lambda: check_session(output, session))
    except Exception:
        check_session(output, session)  # another command has deleted what this one was writing
        raise


def _check_visible(this: CorpusRun, output: RunFolder, session: str) -> None:
    local = {file.storage.path for file in this.corpus.files if file.storage.is_local}
    cluster.check_visible("--input", sorted(local))
    cluster.check_output(output, session)
    for flag, path in this.seen_by_nodes:
        cluster.check_visible(flag, [path])


@contextmanager
def ray_for(config: ActorFlags) -> Iterator[cluster.Ask]:
    """Ray for this run, and what each actor asks of it. Raises UserError if the cluster lacks it."""
    with ray_with(*config.actor_range, config.ask, config.wait_for_resources):
        yield config.ask


@contextmanager
def ray_with(
    least: int,
    most: int,
    ask: cluster.Ask,
    wait_minutes: float = 0.0,
    flags: str = "--num-actors, --cpus-per-actor or --gpus-per-actor",
) -> Iterator[None]:
    """Ray for `least` to `most` actors. Raises UserError if it cannot place them: lower `flags`.

    A local Ray never grows. For a cluster, `wait_minutes` is how long to wait until it does.
    """
    slots = max(os.cpu_count() or 1, math.ceil(most * ask.cpus)) + READ_SLOTS
    with cluster.connect(slots) as joined:
        if not joined.is_local:
            cluster.wait_for_room(ask, least, wait_minutes, flags)
        elif short := cluster.shortage(ask, least):
            raise UserError(f"{short}: lower {flags}, or join a cluster through RAY_ADDRESS")
        yield


def _close(config: CorpusConfig, output: RunFolder, record: manifest.Manifest) -> int:
    """Write the report, print the summary, and check the number of quarantined rows. Returns the exit status."""
    facts = page.write_report(output, record)
    print(page.summary(facts, config.output, record))
    totals = RecordStore(output).totals()
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
