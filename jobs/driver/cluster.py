"""Join the cluster at RAY_ADDRESS, or start a local Ray. A submitted job runs the same code."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.errors import UserError

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("algorithms", "actors", "jobs", "serve")  # what workers on other nodes import
CONNECT_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Cluster:
    """The Ray this driver is connected to."""

    is_local: bool
    resources: dict[str, float]


@contextmanager
def connect(num_cpus_if_local: int) -> Iterator[Cluster]:
    """Connect to Ray, or keep an existing connection. Raises UserError if no Ray answers at RAY_ADDRESS.

    A local Ray offers `num_cpus_if_local` CPU slots. They admit actors and tasks, and do not bind cores.
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
            # The packages alone, wherever they are installed: ROOT may be all of site-packages.
            arguments["runtime_env"] = {"py_modules": [str(ROOT / name) for name in PACKAGES if (ROOT / name).is_dir()]}
        try:
            ray.init(address=address, **arguments)
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            raise UserError(_unreachable(address, str(error).strip().split("\n")[0])) from None
    else:
        try:
            ray.init(address="local", num_cpus=num_cpus_if_local, include_dashboard=False, **arguments)
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
    """Re-raise a worker's UserError as itself."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def configure_data() -> None:
    """Turn off Ray Data's progress bars and logs, and let exceptions travel as objects."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it also raises what it logs as an error


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
