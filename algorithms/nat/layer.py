"""One NAT linear layer: the equations, the trainable layer, and the frozen teacher layer.

Source: "Turning Dust into Gold" (arXiv 2312.12832), Negative Assistant Training. The equations follow the 8-bit
path of the authors' code, but x reaches the negative side without dropout (our choice):

    w     = W0 x
    h_pos = w + s B_p A_p dropout(x)          h_neg = w + s_n B_n A_n x
    q     = W_Q x        k_i = W_K h_i
    p     = softmax(q.k_pos, q.k_neg)         a = p_neg - 0.5
    v_i   = W_2 GELU(W_1 h_i)
    out   = w + (1 - a) v_pos + a v_neg

Shape legend: B batch, T token, N all tokens of a batch, D in-features, O out-features, R rank (the sum of both
ranks where the two sides are concatenated), G gate width. Any leading dimensions may replace B and T.
"""

import math
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from algorithms.nat.config import NatConfig

Mode: TypeAlias = Literal["mix", "neg", "pos", "off"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)


def _kaiming_parameter(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rows, columns), a=math.sqrt(5)))


class LowRank(nn.Module):
    """The two factors of a LoRA, A [R, D] and B [O, R], and its scaling. B starts at zero."""

    def __init__(self, in_features: int, out_features: int, r: int, scaling: float) -> None:
        super().__init__()
        self.A = _kaiming_parameter(r, in_features)
        self.B = nn.Parameter(torch.zeros(out_features, r))
        self.scaling = scaling

    def forward(self, x_BTD: Tensor) -> Tensor:
        """s B A x, [B, T, O]. The order of operations matches PEFT, so results are bit-identical."""
        return F.linear(F.linear(x_BTD, self.A), self.B) * self.scaling


class IntegrateUnit(nn.Module):
    """The weights that gate and blend the two sides. W_2 starts at zero."""

    def __init__(self, in_features: int, out_features: int, gate_dim: int) -> None:
        super().__init__()
        self.W_Q = _kaiming_parameter(gate_dim, in_features)
        self.W_K = _kaiming_parameter(gate_dim, out_features)
        self.W_1 = _kaiming_parameter(gate_dim, out_features)
        self.W_2 = nn.Parameter(torch.zeros(out_features, gate_dim))

    def forward(self, x_ND: Tensor, dropped_ND: Tensor, w_NO: Tensor, positive: LowRank, negative: LowRank) -> Tensor:
        """w + (1 - a) v_pos + a v_neg, [N, O].

        No h_i is materialised, because h_i is w plus a term of rank R: W_1 h_i = W_1 w + s (W_1 B_i) (A_i x).
        In the difference of the keys, w cancels. Per token, the products of size O or D are one with W_1, one
        with W_2, and the products of rank R.
        """
        u_pos_NR, u_neg_NR = F.linear(dropped_ND, positive.A), F.linear(x_ND, negative.A)
        u_NR = torch.cat([u_pos_NR, u_neg_NR], dim=1)
        sides_OR = torch.cat([-positive.scaling * positive.B, negative.scaling * negative.B], dim=1)
        keys_RD = (self.W_K @ sides_OR).T @ self.W_Q
        # A softmax over two scores is the sigmoid of their difference, q.k_neg - q.k_pos.
        difference_N1 = (F.linear(x_ND, keys_RD) * u_NR).sum(1, keepdim=True)
        a_N1 = torch.sigmoid(difference_N1) - 0.5

        minus_pos_RG, neg_RG = torch.split((self.W_1 @ sides_OR).T, [len(positive.A), len(negative.A)])
        shared_NG = F.linear(w_NO, self.W_1)
        pos_NG = F.gelu(torch.addmm(shared_NG, u_pos_NR, minus_pos_RG, alpha=-1))
        neg_NG = F.gelu(torch.addmm(shared_NG, u_neg_NR, neg_RG))
        return torch.addmm(w_NO, torch.lerp(pos_NG, neg_NG, a_N1.to(pos_NG.dtype)), self.W_2.T)


def adapt(
    mode: Mode,
    x_BTD: Tensor,
    w_BTO: Tensor,
    positive: LowRank,
    negative: LowRank,
    unit: IntegrateUnit,
    dropout: Callable[[Tensor], Tensor],
) -> Tensor:
    """The output of a NAT layer in a mode, [B, T, O], in the dtype of w.

    `mix`: the equations above. `pos`: h_pos. `neg`: h_neg, equal to the negative LoRA alone. `off`: w.
    """
    if mode == "off":
        return w_BTO
    x_BTD = x_BTD.to(positive.A.dtype)
    if mode == "neg":
        out: Tensor = w_BTO + negative(x_BTD)
    elif mode == "pos":
        out = w_BTO + positive(dropout(x_BTD))
    else:
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        w_NO = w_BTO.to(x_BTD.dtype).reshape(-1, w_BTO.shape[-1])
        out = unit(x_ND, dropout(x_ND), w_NO, positive, negative).view(w_BTO.shape)
    return out.to(w_BTO.dtype)


class NatLayer:
    """The base of both layers: a mode, set by `set_nat_mode`."""

    nat_mode: Mode = "mix"


class NatLinear(nn.Module, BaseTunerLayer, NatLayer):
    """A trainable linear layer with named adapters. One adapter is active at a time."""

    adapter_layer_names = ("nat_positive", "nat_negative", "nat_unit")
    other_param_names = ("nat_dropout",)

    def __init__(self, base_layer: nn.Linear, adapter_name: str, config: NatConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        # Custom modules hold the weights. LoRA's "all-linear" would target an nn.Linear, and PEFT makes a frozen
        # Parameter trainable when it casts an nn.ParameterDict.
        self.nat_positive = nn.ModuleDict()
        self.nat_negative = nn.ModuleDict()
        self.nat_unit = nn.ModuleDict()
        self.nat_dropout = nn.ModuleDict()
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: NatConfig) -> None:
        """Add a freshly initialised adapter."""
        sizes = self.in_features, self.out_features
        self.nat_positive[adapter_name] = LowRank(*sizes, config.r, config.scaling)
        self.nat_negative[adapter_name] = LowRank(*sizes, config.negative_rank, config.negative_scaling)
        self.nat_unit[adapter_name] = IntegrateUnit(*sizes, config.gate_dim)
        self.nat_dropout[adapter_name] = nn.Dropout(config.lora_dropout) if config.lora_dropout else nn.Identity()
        if not config.train_negative:
            self.frozen_peft_weight_names[adapter_name] = ("nat_negative",)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def replace_negative(self, adapter_name: str, a_RD: Tensor, b_OR: Tensor, scaling: float) -> None:
        """Replace the negative LoRA of an adapter. A different rank creates new parameters."""
        negative = cast(LowRank, self.nat_negative[adapter_name])
        if negative.A.shape != a_RD.shape:
            resized = LowRank(self.in_features, self.out_features, len(a_RD), scaling)
            resized = resized.to(negative.A.device, negative.A.dtype).requires_grad_(negative.A.requires_grad)
            self.nat_negative[adapter_name] = negative = resized
        negative.scaling = scaling
        with torch.no_grad():
            negative.A.copy_(a_RD)
            negative.B.copy_(b_OR)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Activate an adapter, as in every PEFT layer. Raises ValueError for several: gates do not add up."""
        if not isinstance(adapter_names, str) and len(adapter_names) > 1:
            raise ValueError(f"only one NAT adapter can be active at a time, got {adapter_names}; pass one name")
        super().set_adapter(adapter_names, inference_mode=inference_mode)

    def forward(self, x_BTD: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output with the active adapter applied in the layer's mode, [B, T, O]."""
        w_BTO: Tensor = self.base_layer(x_BTD, *args, **kwargs)
        active = [name for name in self.active_adapters if name in self.nat_unit]
        if self.disable_adapters or not active:
            return w_BTO
        [name] = active
        return adapt(
            self.nat_mode,
            x_BTD,
            w_BTO,
            cast(LowRank, self.nat_positive[name]),
            cast(LowRank, self.nat_negative[name]),
            cast(IntegrateUnit, self.nat_unit[name]),
            self.nat_dropout[name],
        )

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: no single weight matrix is equivalent to NAT."""
        raise ValueError("NAT cannot be merged: its gate depends on the input. Serve it unmerged or distil it with NCE")


class FrozenNatLinear(nn.Linear, NatLayer):
    """A frozen NAT layer for a teacher. It shares the weight of `base_layer` and starts in mode `off`.

    It is not a PEFT tuner layer, so a LoRA wraps it as a plain nn.Linear. PEFT disables a nested tuner layer
    together with the outer one, and saves the weights of both.
    """

    nat_mode: Mode = "off"

    def __init__(self, base_layer: nn.Linear, config: NatConfig) -> None:
        super().__init__(base_layer.in_features, base_layer.out_features, device="meta")
        self.weight, self.bias = base_layer.weight, base_layer.bias
        sizes = self.in_features, self.out_features
        self.nat_positive = LowRank(*sizes, config.r, config.scaling)
        self.nat_negative = LowRank(*sizes, config.negative_rank, config.negative_scaling)
        self.nat_unit = IntegrateUnit(*sizes, config.gate_dim)
        self.requires_grad_(False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The base layer's output with NAT applied in the layer's mode, [B, T, O]."""
        w_BTO = super().forward(x_BTD)
        return adapt(self.nat_mode, x_BTD, w_BTO, self.nat_positive, self.nat_negative, self.nat_unit, nn.Identity())
