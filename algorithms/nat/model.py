"""NAT as a PEFT method, and the functions that set its mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, PeftType, register_peft_method
from torch import nn

from algorithms.nat.config import NatConfig
from algorithms.nat.layer import MODES, Mode, NatLayer, NatLinear


class NatModel(BaseTuner):
    """A model with NAT on its target layers. `get_peft_model(base, NatConfig(...))` creates it.

    Raises ValueError if a target is not a plain nn.Linear.
    """

    prefix = "nat_"
    tuner_layer_cls = NatLinear
    target_module_mapping = cast(dict[str, list[str]], TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        assert isinstance(peft_config, NatConfig)
        if isinstance(target, NatLinear):
            target.update_layer(adapter_name, peft_config)
            return
        self._replace_module(
            parent, target_name, NatLinear(check_target(current_key, target), adapter_name, peft_config), target
        )

    def _check_merge_allowed(self) -> None:
        raise ValueError("NAT cannot be merged: its gate depends on the input. Serve it unmerged or distil it with NCE")


def check_target(name: str, target: nn.Module) -> nn.Linear:
    """The target as an nn.Linear. Raises ValueError for any other type, including a subclass."""
    if type(target) is not nn.Linear:  # a subclass may compute something else; quantised layers do
        kind = type(target)
        raise ValueError(
            f"NAT supports only torch.nn.Linear, but {name} is {kind.__module__}.{kind.__name__}; "
            "remove it from target_modules"
        )
    return target


def set_nat_mode(model: nn.Module, mode: Mode) -> None:
    """Set the mode of every NAT layer in a module tree: mix, neg, pos or off.

    Raises ValueError for an unknown mode, or if the tree has no NAT layer.
    """
    for layer in _nat_layers(model, mode):
        layer.nat_mode = mode


@contextmanager
def nat_mode(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Set the mode of every NAT layer, then restore each layer's previous mode. Raises as `set_nat_mode` does.

    Gradient checkpointing runs the layers again in `backward`, so call `backward` inside the context too.
    """
    layers = _nat_layers(model, mode)
    before = [layer.nat_mode for layer in layers]
    try:
        for layer in layers:
            layer.nat_mode = mode
        yield
    finally:
        for layer, previous in zip(layers, before, strict=True):
            layer.nat_mode = previous


def _nat_layers(model: nn.Module, mode: Mode) -> list[NatLayer]:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    layers: list[NatLayer] = [module for module in model.modules() if isinstance(module, NatLayer)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no NAT layer, so mode {mode!r} cannot be set; add NAT first")
    return layers


def register() -> None:
    """Register NAT with PEFT under the name "nat"."""
    _add_peft_type("NAT")
    register_peft_method(name="nat", config_cls=NatConfig, model_cls=NatModel, prefix=NatModel.prefix)


def _add_peft_type(name: str) -> None:
    """Add a member to the enum PeftType. PEFT requires one for each method and has no API to add it."""
    members: Any = PeftType
    member = str.__new__(PeftType, name)
    member._name_, member._value_ = name, name
    type.__setattr__(PeftType, name, member)  # attribute access from Python 3.12 on
    members._member_names_.append(name)
    members._member_map_[name] = member
    members._value2member_map_[name] = member
