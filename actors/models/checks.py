"""What the driver checks of a model before a run starts, from its config and tokenizer alone."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import UserError
from actors.models.embedded import FOLDERS
from actors.models.source import ModelSource


@dataclass(frozen=True)
class CheckedModel:
    """A model that exists: the pinned source to load from, and what identifies it in a manifest."""

    source: ModelSource
    identity: dict[str, str]


def check_model(name: str, *, offsets: bool = False, chat: bool = False) -> CheckedModel:
    """Check a model and pin its revision. Loads no weights.

    Raises UserError if the model does not exist, if it must give character offsets (`offsets`) or have a chat template
    (`chat`) and does not.
    """
    unpinned = ModelSource(name)
    config = unpinned.config
    # A worker has another working directory, perhaps on another node: it gets a folder's whole path.
    is_folder = name not in FOLDERS and Path(unpinned.path).is_dir()
    source = ModelSource(unpinned.path if is_folder else name, unpinned.commit)
    if offsets:
        check_offsets(source.tokenizer, name)
    if chat and not getattr(source.tokenizer, "chat_template", None):
        raise UserError(f"model {name!r} has no chat template: give a --template with {{question}} in it")
    identity = {"model": name, "architecture": (config.architectures or ["unknown"])[0]}
    if source.revision is not None:
        identity["commit"] = source.revision
    if Path(source.path).is_dir():
        identity["files"] = folder_digest(Path(source.path))
    return CheckedModel(source, identity)


def check_offsets(tokenizer: Any, name: str) -> None:
    """Raise UserError if the tokenizer cannot map tokens to characters."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"the tokenizer of {name!r} gives no character offsets, which scoring needs: "
            "use a model with a fast tokenizer (a tokenizer.json)"
        )


def check_targets(model: ModelSource, targets: tuple[str, ...], model_class: Any = None) -> None:
    """Raise UserError if the model has no linear layer of one of these names. The message lists those it has."""
    from torch import nn

    modules = model.empty(model_class).named_modules()
    linear = {path.rsplit(".", 1)[-1] for path, module in modules if isinstance(module, nn.Linear)}
    for target in targets:
        if target not in linear:
            raise UserError(
                f"--targets {target}: model {model.name!r} has no such linear layer; it has {', '.join(sorted(linear))}"
            )


def check_learnable(model: ModelSource, max_tokens: int) -> None:
    """Raise UserError if the model cannot learn to end a text, or cannot see `max_tokens` at once."""
    if model.tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {model.name!r} has no end-of-text token, so a solution could not end")
    if max_tokens > model.window:
        raise UserError(f"--max-tokens {max_tokens}: model {model.name!r} sees {model.window} at most")


def folder_digest(folder: Path) -> str:
    """A fingerprint of a model folder: name, size and first mebibyte of each file, except hidden files and cards."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
            digest.update(f"{path.name}:{path.stat().st_size}:".encode())
            with path.open("rb") as stream:
                digest.update(stream.read(1 << 20))
    return digest.hexdigest()
