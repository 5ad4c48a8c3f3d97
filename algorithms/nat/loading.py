"""Adapter folders read strictly: a negative LoRA into NAT, and a saved NAT into a plain model.

PEFT's own loading warns of weights that fit nothing and goes on; a NAT without its negative side would then
be taken for one.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from algorithms.nat.config import NatConfig, lora_scaling
from algorithms.nat.layer import FrozenNatLinear, NatLinear
from algorithms.nat.model import NatModel, check_target

ModelT = TypeVar("ModelT", bound=nn.Module)

# Settings of a LoRA that say where it is, how it was trained, or what A, B and their scaling already tell.
_PLAIN_SETTINGS: Final = {
    *("peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "auto_mapping"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
}
_PLAIN_INITS: Final = (True, False, "gaussian")  # others change the weights of the base model


def load_negative(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> None:
    """Make an ordinary LoRA, saved by PEFT, the negative side of a NAT adapter.

    `model` is a PeftModel, a NatModel, or the model inside one. Rank and scaling are the LoRA's own, and are
    recorded in the adapter's config. Call it before an optimizer is made: another rank means new parameters.
    Raises ValueError if the folder holds no plain LoRA, if the layers of the two are not the same, if a shape
    does not fit (another base model), or if the config was given another `negative_r`, `negative_alpha` or
    `negative_use_rslora`; nothing is changed then.
    """
    base = _base_model(model)
    config = _nat_config(model, adapter_name)
    settings, weights = _read(folder)
    _check_plain_lora(settings, folder)
    r, alpha, use_rslora = settings["r"], settings["lora_alpha"], bool(settings.get("use_rslora"))
    found = {"negative_r": r, "negative_alpha": alpha, "negative_use_rslora": use_rslora}
    for name, value in found.items():
        asked = getattr(config, name)
        if asked is not None and asked != value:
            raise ValueError(f"the LoRA in {str(folder)!r} has {name}={value}, the NAT adapter {name}={asked}")

    layers = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, NatLinear) and adapter_name in module.nat_negative
    }
    parts: dict[str, tuple[int, ...]] = {
        f"{name}.lora_{part}.weight": shape
        for name, layer in layers.items()
        for part, shape in (("A", (r, layer.in_features)), ("B", (layer.out_features, r)))
    }
    _check_fit(parts, weights, f"the LoRA in {str(folder)!r}")
    scaling = lora_scaling(alpha, r, use_rslora)
    for name, layer in layers.items():
        a_RD, b_OR = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]
        layer.replace_negative(adapter_name, a_RD, b_OR, scaling)
    for name, value in found.items():
        setattr(config, name, value)


def inject_nat(base: ModelT, folder: str | Path) -> ModelT:
    """Put a saved NAT adapter on a plain model, as a teacher that a LoRA may then be trained over.

    Changes the model and returns it: all of it frozen and in eval mode, NAT in mode `off`, without dropout. For
    PEFT its layers are plain nn.Linear: `get_peft_model(base, LoraConfig(...))` wraps them, saves the LoRA
    alone, and `disable_adapter()` leaves NAT in its mode.
    Raises ValueError if the folder holds no NAT, or its weights are not those of the model's target layers.
    """
    settings, weights = _read(folder)
    if settings.get("peft_type") != "NAT":
        raise ValueError(f"the adapter in {str(folder)!r} is {settings.get('peft_type')}, not NAT")
    config = PeftConfig.from_pretrained(str(folder))
    assert isinstance(config, NatConfig)
    targets = {
        name: check_target(name, module)
        for name, module in base.named_modules()
        if check_target_module_exists(config, name)
    }
    layers = {name: FrozenNatLinear(target, config) for name, target in targets.items()}
    parts = {
        f"{name}.{key}": tuple(value.shape)
        for name, layer in layers.items()
        for key, value in layer.state_dict().items()
        if key.startswith(NatModel.prefix)
    }
    _check_fit(parts, weights, f"the NAT in {str(folder)!r}")
    for name, layer in layers.items():
        for key, parameter in layer.named_parameters():
            if key.startswith(NatModel.prefix):
                parameter.data = weights[f"{name}.{key}"]  # in the type it was trained in
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, layer.to(layer.weight.device))
    return base.requires_grad_(False).eval()


def _base_model(model: nn.Module) -> nn.Module:
    if isinstance(model, PeftModel):
        base: nn.Module = model.get_base_model()
        return base
    return model.model if isinstance(model, NatModel) else model


def _nat_config(model: nn.Module, adapter_name: str) -> NatConfig:
    configs: Any = getattr(model, "peft_config", {})
    config = configs.get(adapter_name)
    if not isinstance(config, NatConfig):
        raise ValueError(f"{type(model).__name__} has no NAT adapter {adapter_name!r}, but {sorted(configs)}")
    return config


def _read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings of an adapter folder, and its weights by their names in the base model."""
    settings, weights = Path(folder) / "adapter_config.json", Path(folder) / "adapter_model.safetensors"
    if not settings.is_file() or not weights.is_file():
        raise ValueError(f"{str(folder)!r} has no {settings.name} with an {weights.name} beside it")
    try:
        stored = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{str(weights)!r} cannot be read: {error}") from None
    return json.loads(settings.read_text()), {key.removeprefix("base_model.model."): stored[key] for key in stored}


def _check_plain_lora(settings: dict[str, Any], folder: str | Path) -> None:
    """Raises ValueError unless the settings describe s B A x on linear layers and nothing more."""
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"the adapter in {str(folder)!r} is {settings.get('peft_type')}, not LORA")
    defaults = asdict(LoraConfig())
    for name, value in settings.items():
        plain = name in _PLAIN_SETTINGS or not value or value == defaults.get(name)
        if not plain and not (name == "init_lora_weights" and value in _PLAIN_INITS):
            raise ValueError(f"the LoRA in {str(folder)!r} has {name}={value!r}, which NAT cannot represent")


def _check_fit(parts: dict[str, tuple[int, ...]], weights: dict[str, Tensor], what: str) -> None:
    """Raises ValueError unless the weights are those parts, each of its shape."""
    for problem, names in (
        ("has no weights for {} of the model's targets", parts.keys() - weights.keys()),
        ("has weights for {} that is no target in the model", weights.keys() - parts.keys()),
    ):
        if names:
            owners = sorted({re.sub(r"\.(lora_|nat_).*$", "", name) for name in names})
            more = f" (and {len(owners) - 1} more)" if len(owners) > 1 else ""
            raise ValueError(f"{what} {problem.format(owners[0] + more)}")
    for name, shape in parts.items():
        if tuple(weights[name].shape) != shape:
            raise ValueError(f"{what} does not fit: {name} is {tuple(weights[name].shape)}, the layer needs {shape}")
