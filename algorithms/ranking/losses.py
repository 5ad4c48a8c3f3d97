"""Losses of pairs: a right and a wrong solution of one problem. Pure functions `(right, wrong, k) -> (loss, metrics)`.

    right_P, wrong_P  logits of the right and of the wrong solution of each pair
    P                 pairs

    power          (1 - s_right)^k + s_wrong^k     Adaptive Self-Consistency (arXiv 2312.12832), k = 3
    bradley-terry  -log sigmoid(z_right - z_wrong)  reward models; only the order of the two counts
    bce            -log s_right - log(1 - s_wrong)  a classifier on the members of the pairs

z is a logit and s its sigmoid. Losses and metrics are sums over the pairs, so micro-batches and ranks add up to the
batch; the caller divides by the number of pairs. Only `power` reads k.

To add a loss: one function of this form, and an entry in LOSSES.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

PairLoss = Callable[[Tensor, Tensor, float], tuple[Tensor, dict[str, Tensor]]]


def power(right_P: Tensor, wrong_P: Tensor, k: float) -> tuple[Tensor, dict[str, Tensor]]:
    """(1 - s_right)^k + s_wrong^k. With k > 1 the gradient fades where a score is nearly right already."""
    # 1 - sigmoid(z) = sigmoid(-z), without the cancellation near 1.
    loss = (torch.sigmoid(-right_P) ** k + torch.sigmoid(wrong_P) ** k).sum()
    return loss, _metrics(right_P, wrong_P)


def bradley_terry(right_P: Tensor, wrong_P: Tensor, k: float) -> tuple[Tensor, dict[str, Tensor]]:
    """-log sigmoid(z_right - z_wrong). It leaves the level of the scores free: calibration sets it."""
    return -functional.logsigmoid(right_P - wrong_P).sum(), _metrics(right_P, wrong_P)


def binary_cross_entropy(right_P: Tensor, wrong_P: Tensor, k: float) -> tuple[Tensor, dict[str, Tensor]]:
    """-log s_right - log(1 - s_wrong), of the same pairs, so right and wrong solutions weigh alike."""
    return -(functional.logsigmoid(right_P) + functional.logsigmoid(-wrong_P)).sum(), _metrics(right_P, wrong_P)


def _metrics(right_P: Tensor, wrong_P: Tensor) -> dict[str, Tensor]:
    """Sums over the pairs: those in the right order (an equal pair counts half), and the scores of both sides."""
    right, wrong = right_P.detach(), wrong_P.detach()
    return {
        "pair_accuracy": (right > wrong).float().sum() + (right == wrong).float().sum() / 2,
        "score_right": torch.sigmoid(right).sum(),
        "score_wrong": torch.sigmoid(wrong).sum(),
    }


LOSSES: Final[dict[str, PairLoss]] = {
    "power": power,
    "bradley-terry": bradley_terry,
    "bce": binary_cross_entropy,
}
