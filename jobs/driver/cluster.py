"""Join the cluster of RAY_ADDRESS, or start a local Ray. The same code is the entrypoint of a submitted job."""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jobs.driver.command import UserError

ROOT: Final = Path(__file__).resolve().parents[2]
CONNECT_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Cluster:
    """The Ray this driver is connected to."""

    is_local: bool
    resources: dict[str, float]


@contextmanager
def connect(num_cpus_if_local: int) -> Iterator[Cluster]:
    """Be connected to Ray; a process that is already stays so. Raises UserError if RAY_ADDRESS leads nowhere.

    A local Ray offers `num_cpus_if_local` slots: they admit actors and tasks, they do not bind cores.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address:
        _check_address(address)
    # Ray's own chatter is not for this screen; warnings and errors are.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        quieten_data()
        yield Cluster(is_local=not address, resources=ray.cluster_resources())
        return
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job brings its own
            arguments["runtime_env"] = {
                "working_dir": str(ROOT),
                "excludes": [".venv", ".git", "runs", "data"],
            }
        try:
            ray.init(address=address, **arguments)
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            raise UserError(_unreachable(address, str(error).strip().split("\n")[0])) from None
    else:
        try:
            ray.init(address="local", num_cpus=num_cpus_if_local, include_dashboard=False, **arguments)
        except Exception as error:
            # Ray raises no class of its own here.
            if "timed out during startup" not in str(error):
                raise
            raise UserError("Ray did not start within its 30 s: this machine is busy, try again later") from None
    quieten_data()
    if threading.current_thread() is threading.main_thread():
        # Ray has put its own handler, which prints a stack trace, where ours was.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield Cluster(is_local=not address, resources=ray.cluster_resources())
    finally:
        ray.shutdown()


@contextmanager
def told_by_actors() -> Iterator[None]:
    """Turn what an actor complains of into a UserError where the user can mend it."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        # An actor that cannot be made, or is not wanted any more, tells why in the text of its death.
        is_stillborn = isinstance(error, ray.exceptions.RayActorError)
        kinds = r"(?:ValueError|OSError|(?:\w+\.)*Complaint)" if is_stillborn else r"(?:\w+\.)*Complaint"
        complaint = re.search(rf"^{kinds}: (.+)$", str(error), re.MULTILINE)
        if complaint is None:
            raise
        raise UserError(complaint[1]) from None


def quieten_data() -> None:
    """No progress bars and no chatter from Ray Data."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as an error it raises too


def _check_address(address: str) -> None:
    """Ask the port before Ray does: Ray waits a minute and ends in a traceback."""
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
