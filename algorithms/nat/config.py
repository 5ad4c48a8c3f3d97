"""The settings of a NAT adapter. PEFT saves them as adapter_config.json."""

import math
from dataclasses import dataclass

from peft import PeftConfig
from peft.utils import PeftType


def lora_scaling(alpha: float, r: int, use_rslora: bool) -> float:
    """The scaling of a LoRA of rank `r`: alpha / r, or alpha / sqrt(r) if rank-stabilised."""
    return alpha / (math.sqrt(r) if use_rslora else r)


@dataclass
class NatConfig(PeftConfig):
    """Settings of Negative Assistant Training.

    The defaults are those of arXiv 2312.12832. For models that PEFT knows, so are the default `target_modules`.

    `r`, `lora_alpha`, `lora_dropout` and `use_rslora` describe the positive LoRA. `negative_r`, `negative_alpha`
    and `negative_use_rslora` describe the negative LoRA. None copies the positive setting until `load_negative`
    fills it in. `gate_dim` is the width of the Integrate Unit. `train_negative` also trains the negative LoRA,
    without dropout: this is the control with two positive LoRAs. `target_modules` and `exclude_modules` work as
    in LoraConfig.

    Raises ValueError if a number is out of range.
    """

    r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.05
    use_rslora: bool = False
    negative_r: int | None = None
    negative_alpha: float | None = None
    negative_use_rslora: bool | None = None
    gate_dim: int = 128
    train_negative: bool = False
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PeftType("NAT")
        for name in ("r", "negative_r", "gate_dim"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must satisfy 0 <= lora_dropout < 1, got {self.lora_dropout:g}")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)

    @property
    def negative_rank(self) -> int:
        """The rank of the negative LoRA."""
        return self.r if self.negative_r is None else self.negative_r

    @property
    def scaling(self) -> float:
        """The scaling s of the positive LoRA."""
        return lora_scaling(self.lora_alpha, self.r, self.use_rslora)

    @property
    def negative_scaling(self) -> float:
        """The scaling s_n of the negative LoRA."""
        alpha = self.lora_alpha if self.negative_alpha is None else self.negative_alpha
        use_rslora = self.use_rslora if self.negative_use_rslora is None else self.negative_use_rslora
        return lora_scaling(alpha, self.negative_rank, use_rslora)
