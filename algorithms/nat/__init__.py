"""Negative Assistant Training (NAT): a PEFT method that also learns from wrong answers.

Source: "Turning Dust into Gold" (arXiv 2312.12832, AAAI 2024), Negative Assistant Training. A LoRA trained on
wrong answers is frozen. A second LoRA trains on right answers. In each layer, a gate adds or subtracts part of
the first LoRA.

    config   NatConfig, the saved settings
    layer    one layer: the equations, the gate (Integrate Unit), the trainable layer, the frozen teacher layer
    model    NatModel; the modes mix, neg, pos and off
    loading  strict loading of adapter folders: a negative LoRA into NAT, a saved NAT into a plain model

Importing this package registers NAT with PEFT. Import it before you open a NAT folder with PEFT.

    model = get_peft_model(base, NatConfig(target_modules=["q_proj", "v_proj"]))
    load_negative(model, "lora_neg")            # skip this line for the control with a zero negative side

Departures from the authors' code (github Yiwei98/TDG): every layer follows the code's 8-bit path, because its
other path computes something else; in-features may differ from out-features. The gate depends on the input, so
NAT cannot be merged.
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

register()  # runs on import because PEFT finds a method only in its own table
