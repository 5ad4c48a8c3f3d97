"""manifest.json: what a run is, so that only the same run goes on in its folder, and how it went."""

import dataclasses
import importlib.metadata
import json
import platform
import time
import uuid
from typing import Any, Final

from actors.storage import Storage
from jobs.driver.command import UserError

NAME: Final = "manifest.json"
PACKAGES: Final = ("ray", "torch", "transformers", "pyarrow")


@dataclasses.dataclass
class Session:
    """One process that worked on the run."""

    name: str
    command: str
    started_at: float
    finished_at: float | None = None


@dataclasses.dataclass
class Manifest:
    """`identity` decides what a run computes: a resume must agree in every key of it."""

    job: str
    status: str  # running, finished
    identity: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    sessions: list[Session]
    num_input_rows: int | None = None
    totals: dict[str, Any] | None = None

    def save(self, run: Storage) -> None:
        """Write the manifest, whole or not at all."""
        data = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        (run / NAME).write_bytes(data.encode("utf-8", "backslashreplace"))


def load(run: Storage) -> Manifest | None:
    """The manifest of a run, None if there is none. Raises UserError if it is damaged."""
    file = run / NAME
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_bytes())
        sessions = [Session(**session) for session in values.pop("sessions")]
        return Manifest(**values, sessions=sessions)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file.path} is not a manifest of Sluice ({error}): choose another output") from None


def open_run(run: Storage, job: str, identity: dict[str, Any], config: dict[str, Any], command: str) -> Manifest:
    """Begin a run in a folder, or go on with the same one. Raises UserError where neither is possible."""
    try:
        manifest = load(run)
        if manifest is None:
            # A hidden file may be a manifest that was killed while it was written.
            if any(not name.startswith(".") for name in run.names()):
                raise UserError(f"output {run.path} holds files that are no run of Sluice: choose another folder")
            run.make_folder()
            manifest = Manifest(job, "running", _plain(identity), config, _versions(), [])
        else:
            _check_same(manifest, job, _plain(identity), run)
        manifest.config = config
        manifest.sessions.append(Session(uuid.uuid4().hex[:12], command, time.time()))
        if manifest.status != "finished":
            manifest.save(run)
    except OSError as error:
        raise UserError(f"cannot write to output {run.path}: {error.strerror or error}") from None
    return manifest


def _check_same(manifest: Manifest, job: str, identity: dict[str, Any], run: Storage) -> None:
    if manifest.job != job:
        raise UserError(f"output {run.path} belongs to a run of {manifest.job}: choose another folder")
    old, new = _flat(manifest.identity), _flat(identity)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if keys:
        shown = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in keys[:3])
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise UserError(
            f"output {run.path} belongs to another run: {shown}{more}. "
            "Repeat that run's command, or choose another folder"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that a loaded identity compares equal to a fresh one."""
    return json.loads(json.dumps(values))


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}
