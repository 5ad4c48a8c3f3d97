"""Likelihood of tokens: of all sequences, or of right ones with something against wrong ones (papers.md B4).

Shape legend: S scored tokens.
"""

from torch import Tensor

from algorithms.losses.batch import (
    LossBatch,
    LossOutput,
    NumItems,
    at_scored,
    divisor,
    log1mexp,
    select_scored,
    target_logprobs,
)


def likelihood(logits: Tensor, batch: LossBatch, *, num_items: NumItems = None) -> LossOutput:
    """Cross-entropy over the scored tokens of all sequences, right or wrong: SFT, CoT KD, MIX, NAT.

    L = -(1/num_items) sum_t log p(y_t)

    Metrics: `accuracy`, the share of tokens that are the most likely one.
    """
    rows, targets = select_scored(logits, batch)
    number = divisor(num_items, len(targets))
    loss = -target_logprobs(rows, targets).sum() / number
    hits = (rows.detach().argmax(-1) == targets).sum().to(loss.dtype)
    return loss, {"accuracy": hits / number}


def negative_training(
    logits: Tensor, batch: LossBatch, *, weight: float = 0.05, num_items: NumItems = None
) -> LossOutput:
    """NT: likelihood of right tokens minus `weight` times the likelihood of wrong ones (TDG's baseline, B4).

    L = (1/num_items) (sum_right -log p(y_t) - weight sum_wrong -log p(y_t))

    Unbounded below: a wrong token's probability may fall to 0 for ever. A falling loss says nothing by itself;
    watch `nll_right`. Metrics: `nll_right`, `nll_wrong`, `right_tokens`, each a sum over num_items, so that the
    mean of a right token is nll_right / right_tokens.
    """
    right, wrong = _right_and_wrong(logits, batch)
    return _weighed(-right, -wrong, -weight, "nll_wrong", num_items)


def unlikelihood(logits: Tensor, batch: LossBatch, *, weight: float = 0.05, num_items: NumItems = None) -> LossOutput:
    """UL: likelihood of right tokens and, `weight` times, unlikelihood of wrong ones (Welleck et al., 1908.04319).

    L = (1/num_items) (sum_right -log p(y_t) + weight sum_wrong -log(1 - p(y_t)))

    By token, not by sequence as [I] in B4 tells: the probability of a sequence underflows. A wrong token whose p
    cannot be told from 1 costs `weight` * 15.9 in float32 and gives no gradient, see `log1mexp`. Metrics:
    `nll_right`, `unlikelihood_wrong`, `right_tokens`, each a sum over num_items.
    """
    right, wrong = _right_and_wrong(logits, batch)
    return _weighed(-right, -log1mexp(wrong), weight, "unlikelihood_wrong", num_items)


def _right_and_wrong(logits: Tensor, batch: LossBatch) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the scored tokens of right sequences, and of wrong ones."""
    logprobs = target_logprobs(*select_scored(logits, batch))
    is_right = at_scored(batch.is_right, batch.mask)
    return logprobs[is_right], logprobs[~is_right]


def _weighed(right: Tensor, wrong: Tensor, weight: float, name_wrong: str, num_items: NumItems) -> LossOutput:
    """Losses of right tokens and `weight` times those of wrong ones, over the count of both."""
    number = divisor(num_items, len(right) + len(wrong))
    nll_right, loss_wrong = right.sum() / number, wrong.sum() / number
    return nll_right + weight * loss_wrong, {
        "nll_right": nll_right.detach(),
        name_wrong: loss_wrong.detach(),
        "right_tokens": right.new_tensor(len(right) / number),
    }
