"""The models and adapters that people name: found in a run of jobs.train or in a folder, and checked."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.errors import UserError
from actors.models.adapters import adapter_folder, check_adapter
from actors.models.source import ModelSource
from actors.runs import manifest
from actors.runs.folder import ADAPTER, ADAPTER_CONFIG, open_run_folder

SAME_BASE: Final = ("architecture", "commit", "files")


@dataclass(frozen=True)
class Trained:
    """A model by name, with the adapter on it and the `prompt` it was trained with, {} if nobody knows."""

    model: str
    adapter: str | None
    prompt: dict[str, Any]


def find_model(flag: str, name: str) -> Trained:
    """What a name stands for: a run of jobs.train, a PEFT folder, or a model as it is.

    Raises UserError for a remote path, another or an unfinished run, and an adapter that does not name its base.
    """
    folder = Path(os.path.expanduser(name))
    if "://" not in name and not (folder / ADAPTER_CONFIG).is_file() and run_in(name) is None:
        return Trained(name, None, {})
    adapter = find_adapter(flag, name)
    trained = run_in(name)
    if trained is not None:
        return Trained(str(trained.identity["model"]["model"]), adapter, trained.identity.get("prompt") or {})
    try:
        base = json.loads((Path(adapter) / ADAPTER_CONFIG).read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise UserError(f"{flag} {name}: {ADAPTER_CONFIG} cannot be read: {error}") from None
    if not base:
        raise UserError(f"{flag} {name} does not name the model that it was trained on: give that model and adapter=")
    return Trained(str(base), adapter, {})


def find_adapter(flag: str, path: str) -> str:
    """The folder of an adapter: `path` itself, or the adapter of the finished training run at `path`.

    Raises UserError for a remote path and for another or an unfinished run.
    """
    if "://" in path:
        raise UserError(f"{flag} {path} is remote: copy the adapter to a folder that all nodes see")
    run = run_in(path)
    if run is not None and run.job != "train":
        raise UserError(f"{flag} {path} is a run of jobs.{run.job}: name a run of jobs.train, or a PEFT folder")
    if run is not None and run.status != "finished":
        raise UserError(f"{flag}: the run in {path} is not finished; repeat its command to finish it")
    return adapter_folder(path)


def identify_adapter(flag: str, folder: str, model: ModelSource) -> dict[str, str]:
    """What identifies an adapter of a model. Raises UserError, with the flag, if it does not fit."""
    try:
        return check_adapter(folder, model)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None


def check_base(flag: str, folder: str, base: str, model: dict[str, str]) -> str | None:
    """A warning if an adapter was made for a model of another name whose shapes fit, else None.

    Raises UserError if the adapter's run says that it was trained on another base: shapes may fit by chance.
    """
    trained = run_in(os.path.dirname(folder)) if os.path.basename(folder) == ADAPTER else None
    if trained is None or trained.job != "train":
        return (
            None if base == model["model"] else f"{flag} {folder} was made for {base}; its shapes fit {model['model']}"
        )
    other = trained.identity["model"]
    if any(other.get(key) != model.get(key) for key in SAME_BASE):
        raise UserError(f"{flag} {folder} was trained on another base, {other['model']}, not on --model")
    return None


def run_in(folder: str) -> manifest.Manifest | None:
    """The run in a folder, or None if there is none or the manifest is something else's."""
    try:
        return manifest.load(open_run_folder(folder))
    except UserError:
        return None
