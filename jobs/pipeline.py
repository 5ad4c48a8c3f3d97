"""Run a pipeline: stages from a YAML file, each a verb with its flags, with one report over all of them.

    python -m jobs.pipeline --config examples/pipeline.yaml

A flag names the output of another stage as stage://NAME. Finished stages are not run again: each output is named after
a fingerprint of all that decides it, so a changed flag redoes only the stages that depend on it. To resume a pipeline
that stopped, repeat its command.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import tyro
import yaml
from pydantic import Field

from actors.errors import SessionLost, UserError
from actors.runs import manifest
from actors.runs.folder import RunFolder, open_run_folder
from actors.runs.session import begin_session, check_session
from jobs.driver import cluster, command, pipeline_state, stage_plan, stage_room
from jobs.driver.command import JobConfig, command_line
from jobs.driver.stage_plan import Stage
from jobs.driver.stage_records import FOLDER, Records, Todo
from jobs.driver.stage_runs import Failure, StageRuns, ending, work_folder
from jobs.reports import page

JOB: Final = "pipeline"


class PipelineConfig(JobConfig):
    """Flags of `jobs.pipeline`."""

    output: str
    """Folder of the pipeline, a path or URI: its report, and the outputs of its stages."""
    stages: Annotated[dict[str, Any], tyro.conf.Suppress] = Field(default_factory=dict)
    """Only in the YAML file: the stages by name, each with its verb and flags, and `after` for stages to wait for."""
    until: tuple[str, ...] = ()
    """Run only these stages and all that they need."""
    only: tuple[str, ...] = ()
    """Run only these stages. What they need must be finished."""
    set: tuple[str, ...] = ()
    """Replace flags of stages: STAGE.FLAG=VALUE, the value as in YAML."""
    parallel: int | None = Field(default=None, ge=1)
    """Stages at once, at most. Default: as many as CPUs and GPUs have room for."""
    dry_run: bool = False
    """Only check the stages, and say which would run and why."""
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    """Dollars. With it, the report has the cost of stages that use GPUs."""


def main() -> None:
    """Entry point of `python -m jobs.pipeline`."""
    command.main(PipelineConfig, run, __doc__ or "")


def run(config: PipelineConfig) -> int:
    """Run the stages that are not finished. Returns the exit status, and raises UserError if a stage fails."""
    plan = stage_plan.make_plan(stage_plan.with_overrides(config.stages, _overrides(config.set)), config.output)
    output = open_run_folder(config.output)
    records = Records(output.root)
    todo = {stage.name: records.todo(stage, plan) for stage in plan}
    chosen = _chosen(config, plan, todo)
    names = [stage.name for stage in plan if stage.name in chosen and not todo[stage.name].is_finished]
    _print_plan(plan, todo, names)
    if config.dry_run:
        return 0
    record = _opened(config, output)
    state = pipeline_state.Writer(plan, records, output, config.price_per_gpu_hour)
    finished = {name for name, each in todo.items() if each.is_finished}
    failures: list[Failure] = []
    left: list[str] = []
    try:
        if names:
            failures, left = _run_stages(config, plan, names, finished, output, state, record.sessions[-1].name)
    except SessionLost:  # the report is another command's now
        raise
    except BaseException:
        _report(record, output, state, is_whole=False)
        raise
    facts = _report(record, output, state, is_whole=len(finished) == len(plan))
    print(page.summary(facts, config.output, record))
    if failures:
        raise UserError(_told(failures, left, config.output))
    return 0


def _report(
    record: manifest.Manifest, output: RunFolder, state: pipeline_state.Writer, is_whole: bool
) -> dict[str, Any]:
    """Note the end of the session, and write the report. Returns its facts."""
    state.write()
    record.status = "finished" if is_whole else "running"
    record.sessions[-1].finished_at = time.time()
    record.save(output)
    return page.write_report(output, record)


def _overrides(texts: Sequence[str]) -> list[tuple[str, str, Any]]:
    """Stage, flag and value of each --set."""
    found = []
    for text in texts:
        target, equals, value = text.partition("=")
        name, dot, flag = target.partition(".")
        if not (equals and dot and name and flag):
            raise UserError(f"--set {text!r} must be STAGE.FLAG=VALUE")
        try:
            found.append((name, flag.replace("-", "_"), yaml.safe_load(value)))
        except yaml.YAMLError:
            raise UserError(f"--set {text!r}: the value is not YAML") from None
    return found


def _chosen(config: PipelineConfig, plan: Sequence[Stage], todo: Mapping[str, Todo]) -> set[str]:
    """The stages that --only and --until leave. Raises UserError for names and needs that are not there."""
    names = {stage.name for stage in plan}
    for flag, wanted in (("only", config.only), ("until", config.until)):
        for name in wanted:
            if name not in names:
                raise UserError(f"--{flag} {name}: there is no such stage; the stages are {', '.join(sorted(names))}")
    if not config.only and not config.until:
        return names
    chosen = stage_plan.upstream(plan, config.until) | {*config.only}
    for stage in plan:
        missing = [name for name in stage.needs if name not in chosen and not todo[name].is_finished]
        if stage.name in chosen and missing:
            raise UserError(f"--only {stage.name} needs {missing[0]}, which is not finished: use --until {stage.name}")
    return chosen


def _print_plan(plan: Sequence[Stage], todo: Mapping[str, Todo], names: Sequence[str]) -> None:
    width, verbs = (max(len(getattr(stage, name)) for stage in plan) for name in ("name", "verb"))
    for stage in plan:
        each = todo[stage.name]
        what = f"to run: {each.why}" if stage.name in names else ("finished" if each.is_finished else "left out")
        print(f"{stage.name:<{width}}  {stage.verb:<{verbs}}  {what}", flush=True)


def _opened(config: PipelineConfig, output: RunFolder) -> manifest.Manifest:
    """The pipeline's own manifest, with a new session. It accepts any stages: their outputs tell them apart."""
    record = manifest.open_run(output, JOB, {}, config.model_dump(mode="json"), command_line())
    if record.status == "finished":
        record.status = "running"
        record.save(output)
        record = manifest.open_run(output, JOB, {}, config.model_dump(mode="json"), command_line())
    begin_session(output, record.sessions[-1].name)
    return record


def _run_stages(
    config: PipelineConfig,
    plan: Sequence[Stage],
    names: Sequence[str],
    finished: set[str],
    output: RunFolder,
    state: pipeline_state.Writer,
    session: str,
) -> tuple[list[Failure], list[str]]:
    cores = None if os.environ.get("RAY_ADDRESS") else os.cpu_count() or 1
    asks = {stage.name: stage_room.ask_of(stage.config, cores) for stage in plan if stage.name in names}
    verbs = {stage.verb for stage in plan if stage.name in names}
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(work_folder(output.root))
        environment: dict[str, str] = {}
        if not verbs <= {*stage_room.NO_RAY}:
            slots = stage_room.slots_for(list(asks.values()), cores or 1, config.parallel)
            environment = stack.enter_context(_shared_ray(slots))
        runs = StageRuns(
            plan, output.root, asks, lambda: _resources(cores), config.parallel, environment, state.write,
            lambda: check_session(output, session),
        )  # fmt: skip
        return runs.run(names, finished, work)


@contextlib.contextmanager
def _shared_ray(slots: int) -> Iterator[dict[str, str]]:
    """One Ray for all stages. Yields what their environment needs to find it."""
    import ray

    with cluster.connect(slots) as joined:
        if not joined.is_local:
            yield {}
            return
        yield {cluster.SHARED_RAY: ray.get_runtime_context().gcs_address}


def _resources(cores: int | None) -> dict[str, float]:
    """What there is for stages. The CPU slots of a local Ray are not cores."""
    import ray

    found = ray.cluster_resources() if ray.is_initialized() else {}
    return found if cores is None else {**found, "CPU": float(cores)}


def _told(failures: Sequence[Failure], left: Sequence[str], output: str) -> str:
    """The failures in one line."""
    told = "; ".join(
        f"stage {each.stage.name} failed with {ending(each.exit_status)} ({each.message}), "
        f"see {output.rstrip('/')}/{FOLDER}/{each.stage.key}.log"
        for each in failures
    )
    return told + (f"; not started: {', '.join(left)}" if left else "")


if __name__ == "__main__":
    main()
