"""The adapters that flags name: found in a run or a folder, and checked against the model."""

import os
import sys

from actors.errors import UserError
from actors.models.adapters import adapter_folder, check_adapter
from actors.models.source import ModelSource
from actors.runs import manifest
from actors.runs.folder import ADAPTER, open_run_folder


def find_adapter(flag: str, path: str) -> str:
    """The folder of an adapter: `path` itself, or the adapter of the finished training run at `path`.

    Raises UserError for a remote path and for another or an unfinished run.
    """
    if "://" in path:
        raise UserError(f"{flag} {path} is remote: copy the adapter to a folder that all nodes see")
    run = _run_in(path)
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


def check_base(flag: str, folder: str, base: str, model: dict[str, str]) -> None:
    """Raise UserError if the adapter's run says that it was trained on another base: shapes may fit by chance."""
    trained = _run_in(os.path.dirname(folder)) if os.path.basename(folder) == ADAPTER else None
    if trained is None or trained.job != "train":
        if base != model["model"]:
            print(f"{flag} {folder} was made for {base}; its shapes fit {model['model']}", file=sys.stderr)
        return
    other = trained.identity["model"]
    if any(other.get(key) != model.get(key) for key in ("architecture", "commit", "files")):
        raise UserError(f"{flag} {folder} was trained on another base, {other['model']}, not on --model")


def _run_in(folder: str) -> manifest.Manifest | None:
    """The run in a folder, or None if there is none or the manifest is something else's."""
    try:
        return manifest.load(open_run_folder(folder))
    except UserError:
        return None
