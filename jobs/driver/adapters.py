"""The adapters that flags name: found in a run or a folder, and checked against the model."""

import os
import sys

from actors.models import ADAPTER_FOLDER, adapter_folder, check_adapter
from actors.storage import open_storage
from jobs.driver import manifest
from jobs.driver.command import UserError


def find(flag: str, path: str, model: str) -> tuple[str, dict[str, str]]:
    """The folder of an adapter, its own or of a finished run of jobs.train, and what identifies it.

    Raises UserError for what is no adapter, or none of the model's.
    """
    if "://" in path:
        raise UserError(f"{flag} {path} is remote: copy the adapter to a folder that all nodes see")
    folder = adapter_folder(path)
    run = _run_in(path)
    if run is not None and run.job != "train":
        raise UserError(f"{flag} {path} is a run of jobs.{run.job}: name one of jobs.train, or a folder of PEFT's")
    if run is not None and run.status != "finished":
        raise UserError(f"{flag}: the run in {path} is not finished; its own command goes on with it")
    try:
        return folder, check_adapter(folder, model)
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from None


def check_base(flag: str, folder: str, base: str, model: dict[str, str]) -> None:
    """Shapes that fit do not make a base the same. Raises UserError where the adapter's own run says it was another."""
    trained = _run_in(os.path.dirname(folder)) if os.path.basename(folder) == ADAPTER_FOLDER else None
    if trained is None or trained.job != "train":
        if base != model["model"]:
            print(f"{flag} {folder} was made for {base}, and fits {model['model']}", file=sys.stderr)
        return
    other = trained.identity["model"]
    if any(other.get(what) != model.get(what) for what in ("architecture", "commit", "files")):
        raise UserError(f"{flag} {folder} was trained on another base, {other['model']}: its weights are not --model's")


def _run_in(folder: str) -> manifest.Manifest | None:
    """The run in a folder; None where there is none, or a manifest of something else."""
    try:
        return manifest.load(open_storage(folder))
    except UserError:
        return None
