"""Whether a run fits on the cluster, and what it will take: from its config and a survey.

`needs_of` reads the flags that verbs share; the rest is pure.
"""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from actors.diagnosis import OPTIONAL
from actors.errors import UserError
from actors.models.source import resolve_dtype
from actors.runs import manifest
from actors.runs.corpus import SUFFIXES
from actors.runs.folder import open_run_folder
from actors.runs.storage import list_files
from jobs.driver import cluster
from jobs.driver.command import JobConfig
from jobs.driver.corpus_run import range_of, threads_each
from jobs.driver.findings import GIB, Finding
from jobs.driver.surveying import Survey, Trial
from jobs.reports.parts import clock

SCORED_PER_TOKEN: Final = 7  # forwarded tokens for each token of a corpus in refine: 6.9 in `make demo`
BYTES_PER_TOKEN: Final = 4
PROCESS_BYTES: Final = 2 * GIB  # of an actor with torch and transformers, beside its model
ACTIVATIONS: Final = 1.3  # the model's size and what a pass needs
OUTPUT_PER_INPUT: Final = 4  # records hold a row before and after, and are written twice until they are merged


@dataclass(frozen=True)
class Needs:
    """What a run asks for."""

    verb: str
    least: int
    most: int
    ask: cluster.Ask
    num_threads: int
    model: str | None
    dtype: str
    inputs: tuple[str, ...]
    output: str | None
    engine: str | None = None

    @property
    def trial(self) -> Trial | None:
        """Its model, to be tried as an actor has it."""
        return Trial(self.model, self.dtype, self.ask, self.num_threads) if self.model else None


@dataclass(frozen=True)
class Supply:
    """What the cluster has for a run now. `shortage` says why even the least number of actors has no room."""

    num_placeable: int
    largest_gpu_bytes: int
    num_input_bytes: int
    run_status: str | None  # of the run in OUTPUT: None, running or finished
    run_verb: str | None
    shortage: str | None = None


def needs_of(verb: str, config: JobConfig) -> Needs:
    """What the flags ask for. Raises UserError for a verb without actors."""
    given: dict[str, Any] = dict(config)
    number = given.get("num_actors", given.get("num_workers"))
    if number is None:
        raise UserError(f"--for {verb}: it runs in one process and asks the cluster for nothing")
    least, most = range_of(str(number))
    cpus = given.get("cpus_per_actor", given.get("cpus_per_worker"))
    gpus = float(given.get("gpus_per_actor", given.get("gpus_per_worker")) or 0)
    device = "cuda" if gpus else "cpu"
    inputs = given.get("input") or given.get("data") or ()
    return Needs(
        verb=verb,
        least=least,
        most=most,
        ask=cluster.Ask(cpus or 1, gpus),
        num_threads=threads_each(cpus, most) or 1,
        model=None if given.get("engine") == "openai" else given.get("model"),
        dtype=resolve_dtype(given.get("dtype", "auto"), device),
        inputs=(inputs,) if isinstance(inputs, str) else tuple(inputs),
        output=given.get("output"),
        engine=given.get("engine"),
    )


def num_input_bytes(needs: Needs) -> int:
    """The size of the input. Raises UserError if it is not there."""
    return sum(size for uri in needs.inputs for _, size in list_files(uri, SUFFIXES))


def supply_for(needs: Needs, input_bytes: int, survey: Survey) -> Supply:
    """What the cluster has now, and what is in the output."""
    record = None
    if needs.output:
        with contextlib.suppress(OSError):  # the survey tells of it
            record = manifest.load(open_run_folder(needs.output))
    return Supply(
        num_placeable=cluster.num_placeable(needs.ask),
        largest_gpu_bytes=max((gpu.memory_bytes for node in survey.nodes for gpu in node.gpus), default=0),
        num_input_bytes=input_bytes,
        run_status=record.status if record else None,
        run_verb=record.job if record else None,
        shortage=cluster.shortage(needs.ask, needs.least),
    )


def fit(needs: Needs, supply: Supply, survey: Survey) -> list[Finding]:
    """What this means for the run."""
    return [
        *_room(needs, supply),
        *_engine(needs, survey),
        *_run(needs, supply),
        *_memory(needs, supply, survey),
        *_disk(needs, supply, survey),
        *_time(needs, supply, survey),
    ]


def _room(needs: Needs, supply: Supply) -> Iterable[Finding]:
    wanted = f"{needs.least}" if needs.least == needs.most else f"{needs.least} to {needs.most}"
    if supply.shortage:
        mend = "lower the number or what each asks for, add nodes, or use --wait-for-resources MINUTES"
        yield Finding("problem", "room", supply.shortage, mend)
    elif supply.num_placeable < needs.most:
        text = f"{supply.num_placeable} of {wanted} actors fit now, each with {needs.ask}"
        yield Finding("warning", "room", text, "without an autoscaler it stays so: lower the upper bound, or add nodes")
    else:
        yield Finding("ok", "room", f"{wanted} actor{'' if needs.most == 1 else 's'}, each with {needs.ask}")


def _engine(needs: Needs, survey: Survey) -> Iterable[Finding]:
    """Whether vLLM is where actors can be, if they are to use it."""
    able = [node for node in survey.nodes if node.ray_gpus or not needs.ask.gpus]
    without = [node.host for node in able if not set(OPTIONAL) & set(node.packages)]
    if needs.engine == "vllm" and without:
        mend = "make cuda on nodes with GPUs, make vllm on others, or --engine transformers"
        yield Finding("problem", "engine", f"no vLLM on {', '.join(without)}", mend)


def _run(needs: Needs, supply: Supply) -> Iterable[Finding]:
    if supply.run_verb not in (None, needs.verb):
        text = f"{needs.output} holds a run of {supply.run_verb}"
        yield Finding("problem", "run", text, "choose another --output")
    elif supply.run_status == "finished":
        yield Finding("ok", "run", f"{needs.output} is finished: the command only writes its report again")
    elif supply.run_status is not None:
        yield Finding("ok", "run", f"{needs.output} is unfinished: the command resumes it")
    elif needs.output:
        yield Finding("ok", "run", f"{needs.output} is free")


def _memory(needs: Needs, supply: Supply, survey: Survey) -> Iterable[Finding]:
    """Whether the models of the actors that share a node or a GPU fit there."""
    model = survey.model
    if model is None or model.error:
        return
    if needs.ask.gpus:
        share = min(1.0, needs.ask.gpus) * supply.largest_gpu_bytes
        need = model.num_bytes * ACTIVATIONS / max(1.0, needs.ask.gpus)
        if share and need > share:
            text = f"the model needs about {need / GIB:.1f} GiB of a GPU, and an actor has {share / GIB:.1f} GiB"
            yield Finding("problem", "model size", text, "raise --gpus-per-actor, or use a smaller model")
        return
    each = model.num_bytes * ACTIVATIONS + PROCESS_BYTES
    for node in survey.nodes:
        most = min(needs.most, needs.ask.fits({"CPU": node.num_cores}))
        if most * each > node.free_memory_bytes:
            text = (
                f"{node.host}: up to {most} actors need about {most * each / GIB:.1f} GiB, "
                f"{node.free_memory_bytes / GIB:.1f} GiB are free"
            )
            yield Finding("warning", "model size", text, "fewer actors with more --cpus-per-actor, or a smaller model")


def _disk(needs: Needs, supply: Supply, survey: Survey) -> Iterable[Finding]:
    free = [each.free_bytes for each in survey.storage if each.free_bytes is not None]
    need = supply.num_input_bytes * OUTPUT_PER_INPUT
    if free and need > min(free):
        text = f"the run may write {need / GIB:.1f} GiB, and {min(free) / GIB:.1f} GiB are free at {needs.output}"
        yield Finding("problem", "room", text, "make room, or choose another --output")


def _time(needs: Needs, supply: Supply, survey: Survey) -> Iterable[Finding]:
    size = f"{supply.num_input_bytes / 1e6:,.1f} MB of input" if supply.num_input_bytes >= 1e5 else "little input"
    model = survey.model
    if needs.verb != "refine" or model is None or model.error or not supply.num_placeable:
        if supply.num_input_bytes:
            yield Finding("ok", "takes", size)
        return
    actors = min(needs.most, supply.num_placeable)
    tokens = supply.num_input_bytes / BYTES_PER_TOKEN * SCORED_PER_TOKEN
    cores = sum(node.num_cores for node in survey.nodes)
    at_once = actors if needs.ask.gpus else max(1, min(actors, cores // needs.num_threads))  # more share the cores
    seconds = math.ceil(tokens / model.tokens_per_second / at_once)
    text = f"{size}: roughly {clock(seconds)} with {actors} actor(s) at this speed; --dry-run 50 measures it"
    yield Finding("ok", "takes", text)
