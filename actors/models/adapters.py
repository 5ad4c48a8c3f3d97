"""PEFT adapters: where they lie, whether they fit a model, and putting them on it."""

import logging
import os
import re
from pathlib import Path
from typing import Any, Final

from actors.errors import UserError
from actors.models.checks import folder_digest
from actors.models.source import ModelSource
from actors.runs.folder import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS

logger = logging.getLogger(__name__)

# The layer that a weight of LoRA or NAT belongs to, and which of its two matrices the weight is.
LOW_RANK_KEY: Final = re.compile(r"(.*)\.(?:lora_([AB])\..*|nat_(?:negative|positive)\.([AB]))")


def adapter_folder(path: str) -> str:
    """The adapter's own folder: `path`, or the adapter of the training run at `path`."""
    folder = Path(os.path.expanduser(path)).resolve()
    return str(folder / ADAPTER if (folder / ADAPTER / ADAPTER_CONFIG).is_file() else folder)


def check_adapter(adapter: str, model: ModelSource) -> dict[str, str]:
    """What identifies a PEFT adapter of a model. Compares shapes and loads no weights.

    Raises UserError if the folder holds no adapter, or weights that do not fit the model's layers.
    """
    from peft import PeftConfig
    from safetensors import SafetensorError, safe_open

    import algorithms.nat  # noqa: F401  importing it registers NAT with PEFT

    folder = Path(adapter)
    weights = folder / ADAPTER_WEIGHTS
    if not folder.is_dir():
        raise UserError(f"adapter folder {adapter!r} does not exist")
    if not (folder / ADAPTER_CONFIG).is_file() or not weights.is_file():
        raise UserError(f"adapter folder {adapter!r} must hold {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
    try:
        settings = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"adapter {adapter!r}: cannot read {ADAPTER_CONFIG}: {error!r}") from None
    base, kind = settings.base_model_name_or_path, getattr(settings.peft_type, "value", settings.peft_type)
    layers = dict(model.empty().named_modules())
    try:
        with safe_open(weights, "pt") as stored:
            shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"adapter {adapter!r}: cannot read {ADAPTER_WEIGHTS}: {error}") from None
    for key, shape in shapes.items():
        found = LOW_RANK_KEY.fullmatch(key.removeprefix("base_model.model."))
        if found is None:
            continue  # of an embedding, or of another kind of adapter
        layer, is_first = found[1], "A" in (found[2], found[3])
        module = layers.get(layer)
        weight = getattr(module, "weight", None)
        # [out, in], except that GPT-2's Conv1D has [in, out]
        sizes = () if weight is None else weight.shape[:: -1 if type(module).__name__ == "Conv1D" else 1]
        if weight is None or shape[is_first] != sizes[is_first]:
            has = "missing" if weight is None else f"of shape {tuple(weight.shape)}"
            raise UserError(
                f"adapter {adapter!r}, made for {base!r}, does not fit model {model.name!r}: "
                f"{layer or key} is {has}, and {key} has shape {shape}"
            )
    return {"kind": str(kind), "base": str(base), "files": folder_digest(folder)}


def load_adapter(model: Any, name: str, adapter: str) -> Any:
    """The model with an adapter on its layers. It is not merged, because merging rounds.

    Raises UserError if the adapter does not fit.
    """
    from peft import PeftConfig, PeftModel

    import algorithms.nat  # noqa: F401  importing it registers NAT with PEFT

    if not (Path(adapter) / ADAPTER_CONFIG).is_file():
        raise UserError(f"adapter folder {adapter!r} has no {ADAPTER_CONFIG}: name a folder that PEFT saved")
    config = PeftConfig.from_pretrained(adapter)
    if config.is_prompt_learning:
        raise UserError(f"adapter {adapter!r} adds tokens to the prompt; only adapters of layers can be sampled")
    base = config.base_model_name_or_path
    problem = f"adapter {adapter!r}, made for {base!r}, does not fit model {name!r}"
    try:
        adapted: Any = PeftModel.from_pretrained(model, adapter, torch_device="cpu")
        unmatched = adapted.load_adapter(adapter, "default", torch_device="cpu")
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{problem}: {str(error).strip().splitlines()[-1].strip()}") from None
    keys = unmatched.missing_keys + unmatched.unexpected_keys
    if keys:
        raise UserError(f"{problem}: {len(keys)} weights are missing or unknown; the first is {keys[0]}")
    if base not in (name, model.name_or_path):  # the same model may have moved, so shapes decide
        logger.warning("adapter %r fits model %r, but was made for %r", adapter, name, base)
    return adapted.get_base_model()
