"""Strict loading of adapter folders: a negative LoRA into NAT, and a saved NAT into a plain model.

PEFT's own loader only warns about weights that do not match. A NAT adapter could then lose its negative side
unnoticed.
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

# NAT accepts any value of these LoRA settings: they describe the location, the training, or A, B and the scaling.
_ACCEPTED_SETTINGS: Final = {
    *("peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "auto_mapping"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
}
_ACCEPTED_INITS: Final = (True, False, "gaussian")  # other initialisations change the base model's weights


def load_negative(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> None:
    """Load a plain LoRA saved by PEFT as the negative side of a NAT adapter.

    `model` is a PeftModel, a NatModel, or the model inside one. The rank and scaling of the LoRA replace those
    in the adapter's config. Call this before you create an optimizer: a different rank creates new parameters.
    Raises ValueError, and changes nothing, if the folder holds no plain LoRA, if the two target different
    layers, if a shape does not match (another base model), or if the config sets a different `negative_r`,
    `negative_alpha` or `negative_use_rslora`.
    """
    base = _base_model(model)
    config = _nat_config(model, adapter_name)
    settings, weights = _read_adapter(folder)
    _check_plain_lora(settings, folder)
    r, alpha, use_rslora = settings["r"], settings["lora_alpha"], bool(settings.get("use_rslora"))
    found = {"negative_r": r, "negative_alpha": alpha, "negative_use_rslora": use_rslora}
    for name, value in found.items():
        requested = getattr(config, name)
        if requested is not None and requested != value:
            raise ValueError(
                f"the LoRA in {str(folder)!r} has {name}={value}, but NatConfig sets {name}={requested}; "
                f"leave {name} unset"
            )

    layers = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, NatLinear) and adapter_name in module.nat_negative
    }
    expected_shapes: dict[str, tuple[int, ...]] = {
        f"{name}.lora_{part}.weight": shape
        for name, layer in layers.items()
        for part, shape in (("A", (r, layer.in_features)), ("B", (layer.out_features, r)))
    }
    _check_weights_fit(expected_shapes, weights, f"the LoRA in {str(folder)!r}")
    scaling = lora_scaling(alpha, r, use_rslora)
    for name, layer in layers.items():
        a_RD, b_OR = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]
        layer.replace_negative(adapter_name, a_RD, b_OR, scaling)
    for name, value in found.items():
        setattr(config, name, value)


def inject_nat(base: ModelT, folder: str | Path) -> ModelT:
    """Add a saved NAT adapter to a plain model as a teacher. A LoRA can then train on top of it.

    Modifies the model in place and returns it: frozen, in eval mode, with NAT in mode `off` and without dropout.
    PEFT sees plain nn.Linear layers. `get_peft_model(base, LoraConfig(...))` wraps them and saves only the LoRA;
    `disable_adapter()` does not change the NAT mode.
    Raises ValueError if the folder holds no NAT adapter, or if its weights do not match the model's targets.
    """
    settings, weights = _read_adapter(folder)
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
    expected_shapes = {
        f"{name}.{key}": tuple(value.shape)
        for name, layer in layers.items()
        for key, value in layer.state_dict().items()
        if key.startswith(NatModel.prefix)
    }
    _check_weights_fit(expected_shapes, weights, f"the NAT in {str(folder)!r}")
    for name, layer in layers.items():
        for key, parameter in layer.named_parameters():
            if key.startswith(NatModel.prefix):
                parameter.data = weights[f"{name}.{key}"]  # keeps the dtype of training
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
        raise ValueError(
            f"{type(model).__name__} has no NAT adapter {adapter_name!r}; use one of its adapters, {sorted(configs)}"
        )
    return config


def _read_adapter(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings of an adapter folder, and its weights, named as in the base model."""
    settings, weights = Path(folder) / "adapter_config.json", Path(folder) / "adapter_model.safetensors"
    if not settings.is_file() or not weights.is_file():
        raise ValueError(f"{str(folder)!r} has no {settings.name} or no {weights.name}; pass a folder saved by PEFT")
    try:
        stored = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{str(weights)!r} cannot be read: {error}") from None
    return json.loads(settings.read_text()), {key.removeprefix("base_model.model."): stored[key] for key in stored}


def _check_plain_lora(settings: dict[str, Any], folder: str | Path) -> None:
    """Raise ValueError unless the settings describe only s B A x on linear layers."""
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"the adapter in {str(folder)!r} is {settings.get('peft_type')}, not LORA")
    defaults = asdict(LoraConfig())
    for name, value in settings.items():
        plain = name in _ACCEPTED_SETTINGS or not value or value == defaults.get(name)
        if not plain and not (name == "init_lora_weights" and value in _ACCEPTED_INITS):
            raise ValueError(f"the LoRA in {str(folder)!r} has {name}={value!r}, which NAT cannot represent")


def _check_weights_fit(expected_shapes: dict[str, tuple[int, ...]], weights: dict[str, Tensor], what: str) -> None:
    """Raise ValueError unless the weights have exactly the expected names and shapes. `what` names the adapter."""
    for problem, names in (
        ("has no weights for {} among the model's targets", expected_shapes.keys() - weights.keys()),
        ("has weights for {} outside the model's targets", weights.keys() - expected_shapes.keys()),
    ):
        if names:
            owners = sorted({re.sub(r"\.(lora_|nat_).*$", "", name) for name in names})
            more = f" (and {len(owners) - 1} more)" if len(owners) > 1 else ""
            raise ValueError(f"{what} {problem.format(owners[0] + more)}")
    for name, shape in expected_shapes.items():
        if tuple(weights[name].shape) != shape:
            raise ValueError(
                f"{what} does not fit: {name} has shape {tuple(weights[name].shape)}, but the layer needs {shape}; "
                "use an adapter of this base model"
            )
