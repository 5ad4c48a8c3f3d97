"""Token likelihood: of all sequences, or of right ones with a penalty on wrong ones.

MIX, NT and UL are baselines in "Turning Dust into Gold" (arXiv 2312.12832). The token-level form of UL is our choice.

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
    """Cross-entropy over the scored tokens of all sequences, right and wrong: SFT, CoT KD, MIX, NAT.

    L = -(1/num_items) sum_t log p(y_t)

    Metrics: `accuracy`, the share of scored tokens that the model ranks first.
    """
    rows, targets = select_scored(logits, batch)
    number = divisor(num_items, len(targets))
    loss = -target_logprobs(rows, targets).sum() / number
    hits = (rows.detach().argmax(-1) == targets).sum().to(loss.dtype)
    return loss, {"accuracy": hits / number}


def negative_training(
    logits: Tensor, batch: LossBatch, *, weight: float = 0.05, num_items: NumItems = None
) -> LossOutput:
    """NT: likelihood of right tokens minus `weight` times that of wrong ones (code of arXiv 2312.12832).

    L = (1/num_items) (sum_right -log p(y_t) - weight sum_wrong -log p(y_t))

    The loss is unbounded below: the probability of a wrong token can approach 0 indefinitely. A falling loss does
    not show progress; monitor `nll_right`. Metrics: `nll_right`, `nll_wrong`, `right_tokens`, each a sum divided by
    num_items. The mean NLL of a right token is nll_right / right_tokens.
    """
    right, wrong = _right_and_wrong(logits, batch)
    return _weighted_loss(-right, -wrong, -weight, "nll_wrong", num_items)


def unlikelihood(logits: Tensor, batch: LossBatch, *, weight: float = 0.05, num_items: NumItems = None) -> LossOutput:
    """UL: likelihood of right tokens plus `weight` times the unlikelihood of wrong ones (Welleck et al., 1908.04319).

    L = (1/num_items) (sum_right -log p(y_t) + weight sum_wrong -log(1 - p(y_t)))

    The unlikelihood is per token, because the probability of a sequence underflows. A wrong token with p equal to
    1 within float32 precision costs `weight` * 15.9 and gives no gradient; see `log1mexp`. Metrics: `nll_right`,
    `unlikelihood_wrong`, `right_tokens`, each a sum divided by num_items.
    """
    right, wrong = _right_and_wrong(logits, batch)
    return _weighted_loss(-right, -log1mexp(wrong), weight, "unlikelihood_wrong", num_items)


def _right_and_wrong(logits: Tensor, batch: LossBatch) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the scored tokens in right sequences, and in wrong ones."""
    logprobs = target_logprobs(*select_scored(logits, batch))
    is_right = at_scored(batch.is_right, batch.mask)
    return logprobs[is_right], logprobs[~is_right]


def _weighted_loss(right: Tensor, wrong: Tensor, weight: float, name_wrong: str, num_items: NumItems) -> LossOutput:
    """The loss of right tokens plus `weight` times that of wrong ones, over num_items or the count of both."""
    number = divisor(num_items, len(right) + len(wrong))
    nll_right, loss_wrong = right.sum() / number, wrong.sum() / number
    return nll_right + weight * loss_wrong, {
        "nll_right": nll_right.detach(),
        name_wrong: loss_wrong.detach(),
        "right_tokens": right.new_tensor(len(right) / number),
    }
