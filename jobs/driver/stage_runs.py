"""The stages of a pipeline as processes: each starts when all it needs is finished and the cluster has room.

A stage that fails stops neither the stages that run nor those that do not depend on it. On Ctrl-C and SIGTERM the
stages are asked to stop. If the pipeline's own process is killed, Linux stops the stages.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from actors.runs.storage import Storage, open_storage
from jobs.driver.cluster import Ask
from jobs.driver.progress import Progress
from jobs.driver.stage_plan import Stage
from jobs.driver.stage_records import FOLDER, Record, Records
from jobs.driver.stage_room import has_room
from jobs.reports.parts import clock

POLL_SECONDS: Final = 0.2
STOP_SECONDS: Final = 60  # for stages to commit what they have
TAIL_BYTES: Final = 4096
RESTARTED: Final = ("export",)  # verbs that write their output anew rather than resume
SET_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG


@dataclass
class Running:
    """A stage at work."""

    stage: Stage
    record: Record
    process: subprocess.Popen[bytes]
    log: Path
    config: Path
    ask: Ask
    started: float


@dataclass(frozen=True)
class Failure:
    """How a stage failed."""

    stage: Stage
    exit_status: int
    message: str


class StageRuns:
    """The processes of a pipeline's stages.

    `changed` is called whenever one starts or ends, and `check` before one starts: it raises an error if none may.
    """

    def __init__(
        self,
        plan: Sequence[Stage],
        root: Storage,
        asks: Mapping[str, Ask],
        resources: Callable[[], Mapping[str, float]],
        parallel: int | None,
        environment: Mapping[str, str],
        changed: Callable[[], None],
        check: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._by_name = {stage.name: stage for stage in plan}
        self._root = root
        self._records = Records(root)
        self._asks = asks
        self._resources = resources
        self._parallel = parallel or len(plan)
        self._environment = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
        self._changed = changed
        self._check = check
        self._running: dict[str, Running] = {}
        self._death_signal = _death_signal()
        self._width = max(len(stage.name) for stage in plan)

    def run(self, names: Sequence[str], finished: set[str], work: Path) -> tuple[list[Failure], list[str]]:
        """Run these stages. Returns the failures, and the stages that could not start because of them."""
        waiting, failures = list(names), []
        with Progress(self._line):
            try:
                while waiting or self._running:
                    self._start_ready(waiting, finished, work)
                    if not self._running:
                        break
                    time.sleep(POLL_SECONDS)
                    for each in [each for each in self._running.values() if each.process.poll() is not None]:
                        failure = self._end(each)
                        if failure is None:
                            finished.add(each.stage.name)
                        else:
                            failures.append(failure)
            except BaseException:
                self._stop_all()
                raise
        return failures, waiting

    def _start_ready(self, waiting: list[str], finished: set[str], work: Path) -> None:
        for name in list(waiting):
            stage = self._by_name[name]
            if len(self._running) >= self._parallel:
                return
            asked = [each.ask for each in self._running.values()]
            if set(stage.needs) <= finished and has_room(self._asks[name], asked, self._resources()):
                self._check()
                waiting.remove(name)
                self._start(stage, work)

    def _start(self, stage: Stage, work: Path) -> None:
        config, log = work / f"{stage.key}.yaml", work / f"{stage.key}.log"
        outputs = {each.name: each.output for each in self._plan}
        config.write_text(yaml.safe_dump(_plain(stage.resolved(outputs)), sort_keys=False, allow_unicode=True))
        record = self._records.begin(
            stage, {name: self._by_name[name].fingerprint for name in stage.needs}
        )  # fmt: skip
        if stage.verb in RESTARTED and len(record.sessions) > 1 and not stage.has_own_output:
            open_storage(stage.output).delete_folder()
        command = [sys.executable, "-m", f"jobs.{stage.verb}", "--config", str(config)]
        with log.open("ab") as stream:
            stream.write(f"$ {' '.join(command[1:])}\n".encode())
            stream.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches only the pipeline, which passes it on
                preexec_fn=self._death_signal,
            )
        self._running[stage.name] = Running(stage, record, process, log, config, self._asks[stage.name], time.time())
        self._say(stage, f"started: {stage.verb} -> {stage.output}")
        self._changed()

    def _end(self, each: Running) -> Failure | None:
        """Record how a stage ended. Returns its failure."""
        stage, status = each.stage, each.process.returncode
        failure = None
        message = last_line(each.log)
        if status == 0 and not open_storage(stage.output).exists():
            status, message = 1, f"{stage.verb} left nothing in {stage.output}"
        self._keep(each)
        self._records.end(stage, each.record, "finished" if status == 0 else "failed", status, message)
        del self._running[stage.name]
        took = clock(time.time() - each.started)
        if status == 0:
            self._say(stage, f"finished in {took}")
        else:
            failure = Failure(stage, status, message)
            self._say(stage, f"failed after {took} with {ending(status)}")
        self._changed()
        return failure

    def _stop_all(self) -> None:
        """Ask all stages to stop, and kill those that do not in time or at a second Ctrl-C."""
        for each in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                each.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for each in self._running.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    each.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for each in list(self._running.values()):
                if each.process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(each.process.pid, signal.SIGKILL)
                    each.process.wait()
                self._keep(each)
                status = each.process.returncode
                self._records.end(each.stage, each.record, "finished" if status == 0 else "stopped", status, "")
                self._say(each.stage, "finished" if status == 0 else "stopped")

    def _keep(self, each: Running) -> None:
        """Copy the log and the config of a stage to the pipeline's output, if that is not on this machine."""
        if not self._root.is_local:
            for file in (each.log, each.config):
                (self._root / FOLDER / file.name).write_bytes(file.read_bytes())

    def _say(self, stage: Stage, text: str) -> None:
        print(f"{stage.name:<{self._width}}  {text}", flush=True)

    def _line(self) -> str:
        """The last line of each stage at work."""
        return "  |  ".join(f"{name}: {last_line(each.log)}" for name, each in list(self._running.items()))


@contextlib.contextmanager
def work_folder(root: Storage) -> Any:
    """The folder for logs and configs: in the output, or on this machine while the output is elsewhere."""
    if root.is_local:
        folder = Path(root.path) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="sluice-pipeline-") as name:
        yield Path(name)


def ending(status: int) -> str:
    """An exit status in words."""
    return f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _plain(value: Any) -> Any:
    """The value with lists for tuples, as YAML writes it."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _death_signal() -> Callable[[], None] | None:
    """What a new process calls first: Linux then sends it SIGTERM when the pipeline's process dies."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here: between fork and exec, little is safe
    return lambda: libc.prctl(SET_DEATH_SIGNAL, signal.SIGTERM)
