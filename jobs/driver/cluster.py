"""Join the cluster at RAY_ADDRESS, or start a local Ray. A submitted job runs the same code."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from actors.code import py_modules
from actors.errors import SluiceError, UserError
from actors.runs.folder import RunFolder
from actors.runs.nodes import missing_path, output_unseen
from jobs.driver import environment

READER_CPUS: Final = 1  # of a task that reads, which Ray Data fuses with its own that cuts the blocks
CONNECT_SECONDS: Final = 5.0
POLL_SECONDS: Final = 2.0
TOLD_EVERY_SECONDS: Final = 30.0
WAIT_HELP: Final = (
    "Minutes to wait on a cluster that lacks what the {} ask for, while an autoscaler or somebody adds nodes. "
    "0: refuse at once."
)
OURS: Final = "Progress bars disabled"
SHARED_RAY: Final = "SLUICE_SHARED_RAY"  # the local Ray that a pipeline has started for its stages, HOST:PORT


@dataclass(frozen=True)
class Cluster:
    """The Ray this driver is connected to."""

    is_local: bool
    resources: dict[str, float]


@contextmanager
def connect(num_cpus_if_local: int) -> Iterator[Cluster]:
    """Connect to Ray, or keep an existing connection. Raises UserError if no Ray answers at RAY_ADDRESS.

    A local Ray offers `num_cpus_if_local` CPU slots. They admit actors and tasks, and do not bind cores. The stages of
    a pipeline share the one that it has started.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address:
        _check_address(address)
    # Only Ray's warnings and errors belong on this screen.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        configure_data()
        yield Cluster(is_local=not address, resources=ray.cluster_resources())
        return
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job has its own
            arguments["runtime_env"] = {"py_modules": py_modules()}
        if not address.startswith("ray://"):  # Ray Client knows no hooks
            arguments.setdefault("runtime_env", {})["worker_process_setup_hook"] = environment.setup_hook()
        try:
            ray.init(address=address, **arguments)
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            raise UserError(_unreachable(address, str(error).strip().split("\n")[0])) from None
    else:
        shared = os.environ.get(SHARED_RAY)
        try:
            if shared:
                ray.init(address=shared, **arguments)
            else:
                ray.init(address="local", num_cpus=num_cpus_if_local, include_dashboard=False, **arguments)
        except ConnectionError:
            raise UserError(f"the pipeline's Ray at {shared} has ended: repeat the pipeline's command") from None
        except Exception as error:
            # Ray has no exception class for this.
            if "timed out during startup" not in str(error):
                raise
            raise UserError("Ray did not start within 30 s: this machine is busy, try again later") from None
    configure_data()
    if threading.current_thread() is threading.main_thread():
        # Ray has replaced our handler with one that prints a stack trace.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield Cluster(is_local=not address, resources=ray.cluster_resources())
    finally:
        ray.shutdown()


@contextmanager
def worker_errors() -> Iterator[None]:
    """Re-raise an error of Sluice that a worker raised as itself."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SluiceError):
            raise error.cause from None
        raise


def configure_data() -> None:
    """Turn off Ray Data's progress bars, show its warnings as lines of ours, and let exceptions travel as objects."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logger = logging.getLogger("ray.data")
    for handler in list(logger.handlers):
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            logger.removeHandler(handler)
    if not any(isinstance(handler, _RayWarnings) for handler in logger.handlers):
        logger.addHandler(_RayWarnings(logging.WARNING))
    logger.propagate = False


class _RayWarnings(logging.Handler):
    """Prints each of Ray Data's warnings once, as one line, except what it says of our own settings.

    What it logs as an error it raises too.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning."""
        text = " ".join(record.getMessage().split())
        if record.levelno == logging.WARNING and text not in self._printed and not text.startswith(OURS):
            self._printed.add(text)
            print(f"ray: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Ask:
    """What each of some actors asks for."""

    cpus: float
    gpus: float

    def fits(self, node: Mapping[str, float]) -> int:
        """How many such actors fit on a node with these resources."""
        counts = [node.get(name, 0.0) / each for name, each in (("CPU", self.cpus), ("GPU", self.gpus)) if each]
        return int(min(counts, default=0) + 1e-6)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def num_placeable(ask: Ask) -> int:
    """How many such actors the nodes that are there now have room for, beside a task that reads."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_reader = (
        [{**node, "CPU": node.get("CPU", 0.0) - READER_CPUS} if node is reads else node for node in nodes]
        for reads in nodes
        if reads.get("CPU", 0.0) >= READER_CPUS
    )
    return max((sum(map(ask.fits, each)) for each in with_reader), default=0)


def free_resources() -> str:
    """What no actor and no task on the cluster has taken, as text."""
    import ray

    free = ray.available_resources()
    return " and ".join(f"{free.get(kind, 0.0):g} {kind}" for kind in ("CPU", "GPU"))


def shortage(ask: Ask, least: int) -> str | None:
    """Why `least` such actors cannot be placed on the nodes that are there now, as one line; None if they can."""
    import ray

    if num_placeable(ask) >= least:
        return None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest: Mapping[str, float] = max(nodes, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)), default={})
    has = " and ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}" for kind in ("CPU", "GPU"))
    return (
        f"{least} actor(s) ask for {ask} each and reading for {READER_CPUS} CPU; "
        f"the cluster has {has} on {len(nodes)} node(s), "
        f"the largest {largest.get('CPU', 0.0):g} CPU and {largest.get('GPU', 0.0):g} GPU"
    )


def wait_for_room(ask: Ask, least: int, minutes: float, flags: str) -> None:
    """Return once the cluster has room for `least` such actors. Meanwhile an autoscaler, if there is one, adds nodes.

    Raises UserError after `minutes`, or at once with 0: lower `flags`.
    """
    short = shortage(ask, least)
    if short is None:
        return
    if not minutes:
        raise UserError(f"{short}: lower {flags}, or wait for more nodes with --wait-for-resources MINUTES")
    from ray.autoscaler.sdk import request_resources

    each = {"CPU": ask.cpus, "GPU": ask.gpus} if ask.gpus else {"CPU": ask.cpus}
    request_resources(bundles=[each] * least + [{"CPU": READER_CPUS}])
    deadline, told = time.monotonic() + minutes * 60, -TOLD_EVERY_SECONDS
    try:
        while short := shortage(ask, least):
            now = time.monotonic()
            if now > deadline:
                raise UserError(f"{short} after {minutes:g} minutes: lower {flags}, or raise --wait-for-resources")
            if now - told >= TOLD_EVERY_SECONDS:
                print(f"waiting: {short}", file=sys.stderr, flush=True)
                told = now
            time.sleep(POLL_SECONDS)
    finally:
        request_resources(bundles=[])  # from here on the actors themselves ask


def check_visible(flag: str, paths: Iterable[str]) -> None:
    """Raise UserError unless every node that can run actors sees these local paths."""
    names = tuple(paths)
    for host, missing in _ask_nodes(missing_path, names) if names else ():
        if missing is not None:
            raise UserError(f"{flag}: node {host} cannot see {missing}: choose a path that all nodes share, or a URI")


def check_output(output: RunFolder, session: str) -> None:
    """Raise UserError unless every node that can run actors reads in `output` what this session wrote there.

    A folder of the same name on each node's own disk would pass for a shared one.
    """
    for host, trouble in _ask_nodes(output_unseen, output.hasty(), session):
        if trouble is not None:
            raise UserError(
                f"--output: node {host} {trouble} {output.path}: choose a path that all nodes share, or a URI that "
                "they may read"
            )


def _ask_nodes(question: Callable[..., str | None], *arguments: Any) -> list[tuple[str, str | None]]:
    """The answer of each node that can run actors, by host. Nothing is asked if all are one machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if len({node["NodeManagerHostname"] for node in nodes}) < 2:
        return []
    ask = ray.remote(question)
    asked = [
        (
            node["NodeManagerHostname"],
            ask.options(
                num_cpus=0,
                max_retries=1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(*arguments),
        )
        for node in nodes
    ]
    answers = []
    for host, ref in asked:
        with contextlib.suppress(ray.exceptions.RayError):  # the node has left
            answers.append((host, ray.get(ref)))
    return answers


def _check_address(address: str) -> None:
    """Try the port first: Ray waits a minute and ends in a traceback."""
    if address in ("auto", "local"):
        return
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS={address} is a dashboard: submit there with `ray job submit --working-dir . -- python -m "
            "jobs...`, or set RAY_ADDRESS to HOST:6379 or ray://HOST:10001"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"RAY_ADDRESS={address} is no address: use HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(_unreachable(address, error.strerror or str(error))) from None


def _unreachable(address: str, reason: str) -> str:
    return f"no Ray answers at RAY_ADDRESS={address} ({reason}): start the cluster, or unset it for a local Ray"
