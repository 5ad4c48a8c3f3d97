"""Refine a corpus of reasoning chains: steps whose removal does not raise perplexity go.

    python -m jobs.refine --input ../shared/data/gsm8k/train.jsonl --format gsm8k --limit 64 --output runs/gsm8k

Reads, refines and writes as a stream on Ray, on the cluster of RAY_ADDRESS or a local one. Every input row
gets one terminal record in OUTPUT/rows. A run that stops goes on with the same command. SPIRIT-FT is
described in `algorithms.refinement`.
"""

import bisect
import dataclasses
import itertools
import math
import os
import random
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from actors.corpus import ROWS_PER_SHARD, Corpus, CorpusSource, file_id_hashes, repeated_ids
from actors.models import check_model
from actors.records import RecordStore, Totals
from actors.refiner import SESSION_FILE, Refiner
from actors.scorer_protocol import Scorer
from actors.storage import Storage, open_storage
from algorithms.formats import FormatName
from algorithms.perplexity import Scope
from algorithms.refinement import RECIPES, Policy, Reference, Unmerged
from jobs.driver import cluster, command, inputs, manifest, report
from jobs.driver.command import JobConfig, UserError
from jobs.driver.progress import Progress, clock

JOB: Final = "refine"
POLICY_FLAGS: Final = {  # flag -> field of Policy; a recipe sets the defaults of these
    "t1": "t1",
    "t2": "t2",
    "scope": "scope",
    "reference": "reference",
    "protect_answer": "protect_answer",
    "merge": "unmerged",
}
BATCHES_PER_ACTOR: Final = 8  # at least, of a small corpus: so that actors finish together
CALLS_PER_ACTOR: Final = 4
READ_SLOTS: Final = 2


class RefineConfig(JobConfig):
    """Flags of `jobs.refine`."""

    input: str
    """File, folder or glob; a path or any URI that pyarrow or fsspec reads. JSONL or Parquet."""
    output: str
    """Folder of the run, a path or URI. The same command goes on with an unfinished run."""
    format: FormatName = "steps"
    """How to read a row. steps: question, steps, answer. gsm8k: question, answer. math: problem, solution.
    chat: messages. text: question, text and, if there, answer."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Other names of the format's columns, as pairs: --columns question prompt solution rationale."""
    split: str | None = None
    """How math, chat and text are cut into steps: newline, paragraph, sentence or regex:PATTERN."""
    id_column: str | None = None
    """Column with ids, unique in the corpus. Without it an id is made of file and row number."""
    limit: int | None = Field(default=None, ge=1)
    """Refine only the first rows."""
    model: str = "smollm2"
    """Who scores: smollm2 (embedded), a model folder or a hub name. The strongest model at hand is best."""
    recipe: Literal["sluice", "digest"] = "sluice"
    """Defaults of the six flags that follow. digest: the decisions of the paper's digest."""
    t1: float = Field(default=RECIPES["sluice"].t1, gt=0)
    """A step goes if the perplexity without it is below t1 times the reference."""
    t2: float = Field(default=RECIPES["sluice"].t2, gt=0)
    """Refining ends when it is above t2 times the reference for every step."""
    scope: Scope = RECIPES["sluice"].scope
    """Which tokens count: completion (reasoning and answer), answer, full (the question too), or suffix
    (those behind the removed step, with and without it)."""
    reference: Reference = RECIPES["sluice"].reference
    """Perplexity to compare with: of the chain as it is now, or as it came."""
    protect_answer: bool = RECIPES["sluice"].protect_answer
    """Never remove the step that states the answer."""
    merge: Unmerged = RECIPES["sluice"].unmerged
    """What happens to a step between t1 and t2, which should be merged: drop it, stop refining the chain, or
    keep the step and look at the others (the same as stop while no model merges steps)."""
    num_actors: str = "1"
    """Scoring actors: N, or MIN:MAX to scale with the load."""
    gpus_per_actor: float = Field(default=0.0, ge=0)
    """GPUs of each actor; fractions share one."""
    cpus_per_actor: float | None = Field(default=None, gt=0)
    """CPU slots, and threads, of each actor. By default 1 on a cluster; locally the actors share the cores."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights and activations. auto: bfloat16 on a GPU, float32 on a CPU."""
    token_budget: int | None = Field(default=None, ge=64)
    """New tokens in one forward pass at most: 16384 on a GPU, 1024 on a CPU. Halves itself out of memory."""
    max_quarantined: str = "100%"
    """The run fails (exit status 1) when more rows are quarantined: a number or a percentage of the rows."""
    dry_run: int = Field(default=0, ge=0)
    """Refine only this many sampled rows, project time, tokens and cost of the corpus, keep nothing. 0 = off."""
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    """Dollars; with --dry-run and --gpus-per-actor the projection has a cost."""

    @field_validator("num_actors")
    @classmethod
    def _check_num_actors(cls, value: str) -> str:
        match = re.fullmatch(r"(\d+)(?::(\d+))?", value)
        if not match or int(match[1]) < 1 or int(match[2] or match[1]) < int(match[1]):
            raise ValueError("must be N or MIN:MAX with 1 <= MIN <= MAX")
        return value

    @field_validator("max_quarantined")
    @classmethod
    def _check_max_quarantined(cls, value: str) -> str:
        if not re.fullmatch(r"\d+|\d+(\.\d+)?%", value) or (value.endswith("%") and float(value[:-1]) > 100):
            raise ValueError("must be a number of rows such as 20, or a percentage such as 1%")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> "RefineConfig":
        self.policy()
        if self.price_per_gpu_hour is not None and not (self.dry_run and self.gpus_per_actor):
            raise ValueError("--price-per-gpu-hour needs --dry-run N and --gpus-per-actor")
        return self

    def policy(self) -> Policy:
        """The refinement policy of these flags. Raises ValueError where they contradict each other."""
        values = {part: getattr(self, flag) for flag, part in POLICY_FLAGS.items()}
        return dataclasses.replace(RECIPES[self.recipe], **values)

    @property
    def resolved_dtype(self) -> str:
        """What `auto` means on the device that the actors get."""
        return {"auto": "bfloat16" if self.gpus_per_actor else "float32"}.get(self.dtype, self.dtype)

    @property
    def actor_range(self) -> tuple[int, int]:
        """Actors at least and at most."""
        least, _, most = self.num_actors.partition(":")
        return int(least), int(most or least)


def recipe_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the chosen recipe sets where no flag does."""
    policy = RECIPES.get(given["recipe"], Policy())
    return {flag: getattr(policy, part) for flag, part in POLICY_FLAGS.items()}


@dataclass(frozen=True)
class ModelScorer:
    """Makes the scorer inside an actor, where torch is imported."""

    model: str
    device: str
    dtype: str
    token_budget: int | None
    num_threads: int | None

    def __call__(self) -> Scorer:
        """Load the model."""
        from actors.scorer import ForestScorer

        return ForestScorer(
            self.model,
            device=self.device,
            dtype=self.dtype,
            token_budget=self.token_budget,
            num_threads=self.num_threads,
        )


def main() -> None:
    """Entry point of `python -m jobs.refine`."""
    command.main(RefineConfig, run, __doc__ or "", recipe_defaults)


def run(config: RefineConfig, make_scorer: Callable[[], Scorer] | None = None) -> int:
    """Refine, or go on refining; the exit status. `make_scorer` replaces the model (tests, other scorers)."""
    corpus = inputs.open_corpus(
        config.input, config.format, config.columns, config.split, config.id_column, config.limit
    )
    try:
        output = open_storage(config.output)
        model = check_model(config.model) if make_scorer is None else {"model": repr(make_scorer)}
    except ValueError as error:
        raise UserError(str(error)) from None
    if make_scorer is None:
        # Ray shows an actor without GPUs all of them: which device to use is said here.
        device = "cuda" if config.gpus_per_actor else "cpu"
        make_scorer = ModelScorer(config.model, device, config.resolved_dtype, config.token_budget, _threads(config))
    if config.dry_run:
        return _dry_run(config, corpus, output, make_scorer)

    identity = {
        "input": inputs.fingerprint(corpus),
        "read": config.model_dump(include={"format", "columns", "split", "id_column", "limit"}),
        "model": {**model, "dtype": config.resolved_dtype},
        "policy": dataclasses.asdict(config.policy()),
    }
    rows = inputs.count_rows(corpus)
    whole = config.model_dump(mode="json")
    record = manifest.open_run(output, JOB, identity, whole, _command_line())
    store = RecordStore(output / "rows")
    if record.status == "finished":
        print(f"{config.output} is finished already")
        return _close(config, output, store, record)

    print(
        f"refining {rows.num_rows:,} rows of {config.input} with {model['model']} -> {config.output}",
        flush=True,
    )
    with _ray(config), Progress(store, rows):
        corpus = _with_repeated_ids(corpus)
        num_read = _execute(config, corpus, rows.num_rows, output, make_scorer, record.sessions[-1].name)
    return _finish(config, output, store, record, num_read)


def _finish(config: RefineConfig, output: Storage, store: RecordStore, record: manifest.Manifest, num_read: int) -> int:
    totals = store.totals()
    if totals.num_rows != num_read:
        raise RuntimeError(f"{num_read} rows were read but {totals.num_rows} records are committed in {output.path}")
    record.status = "finished"
    record.num_input_rows = num_read
    record.totals = totals.as_dict()
    record.sessions[-1].finished_at = time.time()
    record.save(output)
    store.sweep()
    (output / SESSION_FILE).delete_file()
    (output / "_journal").delete_folder()
    return _close(config, output, store, record)


def _close(config: RefineConfig, output: Storage, store: RecordStore, record: manifest.Manifest) -> int:
    """Report, summary, and the verdict on quarantined rows."""
    facts = report.write_report(output, store, record)
    print(report.summary(facts, config.output))
    quarantined, num_rows = facts["rows"]["quarantined"], facts["rows"]["total"]
    limit = config.max_quarantined
    allowed = float(limit[:-1]) / 100 * num_rows if limit.endswith("%") else float(limit)
    if quarantined > allowed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["quarantined_by_reason"].items())
        print(
            f"refine: {quarantined:,} of {num_rows:,} rows are quarantined ({reasons}), "
            f"more than --max-quarantined {limit} allows",
            file=sys.stderr,
        )
        return 1
    return 0


def _execute(
    config: RefineConfig,
    corpus: Corpus,
    num_rows: int,
    output: Storage,
    make_scorer: Callable[[], Scorer],
    session: str,
) -> int:
    """Stream the corpus through the actors; the number of rows read."""
    import ray.data
    from ray.data import ActorPoolStrategy

    (output / SESSION_FILE).write_bytes(session.encode())  # from here on no other session may write
    least, most = config.actor_range
    rows_per_batch = min(ROWS_PER_SHARD, max(1, math.ceil(num_rows / (most * BATCHES_PER_ACTOR))))
    dataset = ray.data.read_datasource(CorpusSource(corpus, rows_per_batch)).map_batches(
        Refiner,
        fn_constructor_args=(make_scorer, config.policy(), output, session),
        batch_size=rows_per_batch,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_tasks_in_flight_per_actor=CALLS_PER_ACTOR,
            max_concurrent_calls_per_actor=CALLS_PER_ACTOR,
        ),
        num_cpus=config.cpus_per_actor or 1,
        num_gpus=config.gpus_per_actor or None,
    )
    num_read = 0
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            num_read += pa.compute.sum(batch["num_rows"]).as_py()
    except ray.exceptions.RayError as error:
        # An actor that cannot be made, or is not wanted any more, tells why in the text of its death.
        is_stillborn = isinstance(error, ray.exceptions.RayActorError)
        pattern = r"^(?:ValueError|OSError): (.+)$" if is_stillborn else r"^ValueError: (another session .+)$"
        complaint = re.search(pattern, str(error), re.MULTILINE)
        if complaint is None:
            raise
        raise UserError(complaint[1]) from None
    return num_read


def _with_repeated_ids(corpus: Corpus) -> Corpus:
    """With an id column, first look for ids that stand there twice: a task a file, 16 bytes a row."""
    if corpus.id_column is None:
        return corpus
    import ray

    hashes = ray.remote(file_id_hashes)
    refs = [hashes.remote(file, corpus.id_column, corpus.limit) for file in corpus.files]
    parts = [(file.name, *ray.get(ref)) for file, ref in zip(corpus.files, refs, strict=True)]
    return dataclasses.replace(corpus, repeated=repeated_ids(parts))


def _dry_run(config: RefineConfig, corpus: Corpus, output: Storage, make_scorer: Callable[[], Scorer]) -> int:
    """Refine a sample into a folder that is thrown away, and project it onto the corpus."""
    counts = inputs.count_rows_by_file(corpus)
    rows = counts.total
    sample = _sample(corpus, counts, config.dry_run)
    scratch = output.parent / f".{output.name}.dry-run-{os.getpid()}"
    try:
        scratch.make_folder()
    except OSError as error:
        raise UserError(f"cannot write beside output {config.output}: {error.strerror or error}") from None
    store = RecordStore(scratch / "rows")
    try:
        with _ray(config), Progress(store, inputs.RowCount(config.dry_run, is_exact=True)):
            started = time.time()
            _execute(config, sample, config.dry_run, scratch, make_scorer, "dry-run")
            seconds = time.time() - started
        print(_projection(config, rows, store.totals(), seconds))
    finally:
        scratch.delete_folder()
    return 0


def _sample(corpus: Corpus, counts: inputs.FileCounts, size: int) -> Corpus:
    """The corpus with only `size` rows of it, chosen evenly at random with a fixed seed."""
    num_rows = counts.total.num_rows
    positions = random.Random(0).sample(range(num_rows), min(size, num_rows))
    chosen: dict[int, set[int]] = {}
    starts = list(itertools.accumulate(counts.num_rows, initial=0))
    for position in positions:
        file = bisect.bisect_right(starts, position) - 1
        chosen.setdefault(file, set()).add(position - starts[file])
    frozen = {file: frozenset(rows) for file, rows in chosen.items()}
    return dataclasses.replace(corpus, chosen=frozen, limit=None)


def _projection(config: RefineConfig, rows: inputs.RowCount, totals: Totals, seconds: float) -> str:
    """What the whole corpus would take, from the model seconds of a sample."""
    sampled = max(1, totals.num_rows)
    scale = rows.num_rows / sampled
    actors = config.actor_range[1]
    # Start-up happens once: project the time models computed, not the time that passed.
    projected = totals.forward_seconds * scale / actors
    start_up = max(0.0, seconds - totals.forward_seconds / actors)
    saved = totals.tokens_original - totals.tokens_refined
    about = "" if rows.is_exact else "about "
    lines = [
        f"dry run: {totals.num_rows:,} of {about}{rows.num_rows:,} rows in {seconds:.1f} s "
        f"({totals.rows['refined']} refined, {totals.rows['quarantined']} quarantined)",
        f"projected time      {clock(projected + start_up)} with {actors} actor(s), "
        f"of which start-up {clock(start_up)}",
        f"tokens to score     {totals.tokens_scored * scale:,.0f}",
        f"tokens to save      {saved * scale:,.0f} ({saved / max(1, totals.tokens_original):.1%} of the reasoning)",
    ]
    if config.price_per_gpu_hour is not None:
        hours = (projected + start_up) / 3600 * actors * config.gpus_per_actor
        lines.append(f"projected cost      ${hours * config.price_per_gpu_hour:,.2f} for {hours:,.2f} GPU hours")
    return "\n".join(lines)


@contextmanager
def _ray(config: RefineConfig) -> Iterator[None]:
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


def _threads(config: RefineConfig) -> int | None:
    """Threads of a scorer on CPU; None leaves it to Ray, which knows the machine an actor lands on."""
    if config.cpus_per_actor is not None:
        return max(1, int(config.cpus_per_actor))
    if os.environ.get("RAY_ADDRESS"):
        return None
    return max(1, (os.cpu_count() or 1) // config.actor_range[1])


def _command_line() -> str:
    return "python -m jobs.refine " + shlex.join(sys.argv[1:])


if __name__ == "__main__":
    main()
