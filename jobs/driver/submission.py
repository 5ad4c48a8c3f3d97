"""A verb's command line as a job on a cluster: its id, what to do about jobs of the same run, what it takes along.

The id is derived from what identifies the run, so a command that is submitted twice meets its own job. Ray never gives
an id a second time: a run that failed goes on under the same id with a number.
"""

import hashlib
import importlib.metadata
import json
import os.path
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from actors.code import ROOT, py_modules
from actors.errors import UserError
from jobs.driver.command import JobConfig, take_config_flag

# How fast, on what and how patiently: a resumed run may change these (docs/operations.md, Resume).
NOT_IDENTITY: Final = frozenset(
    {
        "num_actors", "gpus_per_actor", "cpus_per_actor", "max_quarantined", "num_workers", "gpus_per_worker",
        "cpus_per_worker", "max_failures", "max_batch", "token_budget", "concurrency", "patience_hours",
        "wait_for_resources", "price_per_gpu_hour",
    }
)  # fmt: skip
ALWAYS_AGAIN: Final = ("doctor", "report")  # verbs that look at what is there now
ENDED_BADLY: Final = ("FAILED", "STOPPED")

Environment = Literal["nodes", "uv"]


@dataclass(frozen=True)
class Decision:
    """What to do with a command line, given the jobs that the cluster knows: `id` is the job's."""

    action: Literal["submit", "follow", "finished"]
    id: str
    predecessor: str | None = None
    """The job whose run this one goes on with."""


def submission_id(verb: str, config: JobConfig) -> str:
    """The id of the first job of a run, from the verb and what identifies the run."""
    values = {name: value for name, value in config.model_dump(mode="json").items() if name not in NOT_IDENTITY}
    if values.get("output"):
        values["output"] = _normal(values["output"])
    digest = hashlib.blake2b(json.dumps([verb, values], sort_keys=True).encode(), digest_size=6)
    return f"sluice-{verb}-{digest.hexdigest()}"


def decide(first_id: str, statuses: Mapping[str, str], again: bool) -> Decision:
    """Submit, follow, or tell that the run is finished. `statuses` holds the status of each job by id.

    `again` submits although a job of this run has succeeded.
    """
    numbers = {
        int(match[1] or 1): name for name in statuses if (match := re.fullmatch(rf"{first_id}(?:-(\d+))?", name))
    }
    if not numbers:
        return Decision("submit", first_id)
    latest = numbers[max(numbers)]
    following = f"{first_id}-{max(numbers) + 1}"
    if statuses[latest] in ENDED_BADLY:
        return Decision("submit", following, predecessor=latest)
    if statuses[latest] != "SUCCEEDED":
        return Decision("follow", latest)
    return Decision("submit", following) if again else Decision("finished", latest)


def check_output(config: JobConfig) -> None:
    """Raise UserError for an output that would be lost with the job's own folder."""
    output = getattr(config, "output", None)
    if output and "://" not in output and not os.path.isabs(output):
        raise UserError(
            f"--output {output} is relative, and a job runs in a folder that is deleted after it: "
            "give an absolute path that all nodes see, or a URI"
        )


def entrypoint(verb: str, args: Sequence[str]) -> str:
    """The job's command. A config file must lie in what the job takes along, and is named from there."""
    _, path = take_config_flag(list(args))
    shipped = list(args)
    if path is not None:
        file = Path(path).resolve()
        if not (_has_repository() and file.is_relative_to(ROOT)):
            raise UserError(f"--config {path} is outside {ROOT}, which the job takes along: copy it there")
        there = str(file.relative_to(ROOT))
        shipped = [{path: there, f"--config={path}": f"--config={there}"}.get(arg, arg) for arg in args]
    return shlex.join(["python", "-m", f"jobs.{verb}", *shipped])


def runtime_env(environment: Environment) -> dict[str, Any]:
    """What the job takes along: the repository without what .gitignore and .rayignore name, or installed packages.

    With `uv`, Ray also installs the packages that Sluice depends on, on each node.
    """
    code: dict[str, Any] = {"working_dir": str(ROOT)} if _has_repository() else {"py_modules": py_modules()}
    return code if environment == "nodes" else code | {"uv": {"packages": _dependencies()}}


def _dependencies() -> list[str]:
    try:
        required = importlib.metadata.requires("sluice") or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "--environment uv needs an installed Sluice, whose dependencies it reads: see the README"
        ) from None
    return [each for each in required if "extra ==" not in each]


def _has_repository() -> bool:
    return (ROOT / "pyproject.toml").is_file()


def _normal(output: str) -> str:
    """One spelling of a folder."""
    return output.rstrip("/") if "://" in output else os.path.normpath(output)
