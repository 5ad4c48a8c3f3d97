"""The network of an encoder ranker: a trunk, mean pooling over the solution's tokens, and a head.

    B  solutions    T  tokens, padded on the right    D  width of the trunk

The ranker of Adaptive Self-Consistency (arXiv 2312.12832). Its release pools over padding too and leaves out the first
token of each solution; this one does neither. Knows nothing of tokenizers or of where the trunk comes from.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_LAYERS: Final = 2


@dataclass(frozen=True)
class TokenBatch:
    """Questions and solutions as tokens: all tokens, which of them are not padding, and which are the solution's."""

    tokens_BT: Tensor  # int64
    attention_BT: Tensor  # int64: 1, and 0 on padding
    solution_BT: Tensor  # bool

    def to(self, device: torch.device) -> "TokenBatch":
        """The batch on a device."""
        return TokenBatch(self.tokens_BT.to(device), self.attention_BT.to(device), self.solution_BT.to(device))


def pooled_mean(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean over the tokens in the mask [B, D], in float32. Zeros for a solution without tokens."""
    weights_BT1 = mask_BT.unsqueeze(-1).float()
    totals_BD = (hidden_BTD.float() * weights_BT1).sum(dim=1)
    return totals_BD / weights_BT1.sum(dim=1).clamp(min=1)


class EncoderHead(nn.Module):
    """Two residual ELU layers and a logit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(NUM_LAYERS))
        self.logit = nn.Linear(width, 1)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """The logit of each solution [B]."""
        for layer in self.layers:
            pooled_BD = pooled_BD + functional.elu(layer(pooled_BD))
        logit_B: Tensor = self.logit(pooled_BD).squeeze(-1)
        return logit_B


class EncoderNetwork(nn.Module):
    """Trunk, pooling and head. The trunk is a model of transformers that returns its `last_hidden_state`."""

    def __init__(self, trunk: Any, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = EncoderHead(width)

    def forward(self, tokens_BT: Tensor, attention_BT: Tensor, solution_BT: Tensor) -> Tensor:
        """The logit of each solution [B]; its sigmoid is the score. Tensors, not a TokenBatch: DDP moves tensors."""
        hidden_BTD = self.trunk(input_ids=tokens_BT, attention_mask=attention_BT).last_hidden_state
        with torch.autocast(hidden_BTD.device.type, enabled=False):  # bfloat16 would tie logits
            logit_B: Tensor = self.head(pooled_mean(hidden_BTD, solution_BT))
        return logit_B
