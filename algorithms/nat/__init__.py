"""Negative Assistant Training (NAT): a PEFT method that learns from wrong answers too.

"Turning Dust into Gold" (arXiv 2312.12832; papers.md B1). A LoRA trained on wrong answers is frozen, a second
one trains on right answers, and in each layer a gate decides how much of the first is taken away or added.

    config   NatConfig, the settings that are saved
    layer    the equations of one layer; the layer that trains and the one that only teaches
    model    NatModel; the modes mix, neg, pos, off
    loading  adapter folders, strictly: a negative LoRA into NAT, a saved NAT into a plain model

Importing this package registers the method with PEFT: whoever opens a NAT folder with PEFT imports it first.

    model = get_peft_model(base, NatConfig(target_modules=["q_proj", "v_proj"]))
    load_negative(model, "lora_neg")            # without: the control whose negative side is zero

Departures from the release: the layers it trains in 8 bit are meant everywhere (its other path computes
something else), and in-features may differ from out-features. The gate depends on the input, so NAT cannot be
merged.
"""

from algorithms.nat.config import NatConfig
from algorithms.nat.layer import FrozenNatLinear, Mode, NatLayer, NatLinear
from algorithms.nat.loading import inject_nat, load_negative
from algorithms.nat.model import NatModel, nat_mode, register, set_nat_mode

__all__ = [
    "FrozenNatLinear",
    "Mode",
    "NatConfig",
    "NatLayer",
    "NatLinear",
    "NatModel",
    "inject_nat",
    "load_negative",
    "nat_mode",
    "set_nat_mode",
]

register()  # the one thing that must happen on import: PEFT finds methods in its table only
