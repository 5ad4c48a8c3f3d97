"""manifest.json: what a run is and how it went.

A command resumes the run in its output folder only if both have the same identity: the same input, model and settings.
"""

import dataclasses
import importlib.metadata
import json
import platform
import time
import uuid
from typing import Any, Final

from actors.errors import UserError
from actors.runs.folder import RunFolder

PACKAGES: Final = ("ray", "torch", "transformers", "pyarrow")


@dataclasses.dataclass
class Session:
    """One execution of the run's command."""

    name: str
    command: str
    started_at: float
    finished_at: float | None = None


@dataclasses.dataclass
class Manifest:
    """One run. `identity` holds everything that decides its results: a resume must agree in every key."""

    job: str
    status: str  # running, finished
    identity: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    sessions: list[Session]
    num_input_rows: int | None = None
    totals: dict[str, Any] | None = None

    def save(self, run: RunFolder) -> None:
        """Write the manifest atomically."""
        data = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        run.manifest.write_bytes(data.encode("utf-8", "backslashreplace"))


def load(run: RunFolder) -> Manifest | None:
    """The manifest of a run, or None if there is none. Raises UserError if it is damaged."""
    file = run.manifest
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_bytes())
        sessions = [Session(**session) for session in values.pop("sessions")]
        return Manifest(**values, sessions=sessions)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file.path} is not a manifest of Sluice ({error}): choose another folder") from None


def open_run(run: RunFolder, job: str, identity: dict[str, Any], config: dict[str, Any], command: str) -> Manifest:
    """Start a run in a folder, or resume the same run. A finished run is returned as it is.

    Raises UserError if the folder holds anything else.
    """
    try:
        manifest = load(run)
        if manifest is None:
            # A hidden file may be a manifest whose writer was killed.
            if any(not name.startswith(".") for name in run.root.names()):
                raise UserError(f"output {run.path} holds files that are not a run of Sluice: choose another folder")
            run.root.make_folder()
            manifest = Manifest(job, "running", _json_value(identity), config, _versions(), [])
        else:
            _check_same(manifest, job, _json_value(identity), run)
        if manifest.status != "finished":
            manifest.config = config
            manifest.sessions.append(Session(uuid.uuid4().hex[:12], command, time.time()))
            manifest.save(run)
    except OSError as error:
        raise UserError(f"cannot write to output {run.path}: {error.strerror or error}") from None
    return manifest


def _check_same(manifest: Manifest, job: str, identity: dict[str, Any], run: RunFolder) -> None:
    if manifest.job != job:
        raise UserError(f"output {run.path} belongs to a run of {manifest.job}: choose another folder")
    old, new = _flattened(manifest.identity), _flattened(identity)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if keys:
        shown = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in keys[:3])
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise UserError(
            f"output {run.path} belongs to another run: {shown}{more}. "
            "Repeat that run's command, or choose another folder"
        )


def _flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flattened(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _json_value(values: dict[str, Any]) -> dict[str, Any]:
    """The values after a round trip through JSON, so that a loaded identity equals a fresh one."""
    return json.loads(json.dumps(values))


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}
