"""ORPO: preference by the odds of chosen and rejected, without a reference model (Hong et al., arXiv 2403.07691).

Departure from TRL's trainer: TRL's likelihood also scores the prompt of a chosen sequence, and averages over the
tokens of all pairs. Here only scored tokens count, and all pairs have equal weight.

Shape legend: N sequences, P pairs.
"""

from torch import Tensor
from torch.nn import functional

from algorithms.losses.batch import LossBatch, LossOutput, NumItems, divisor, log1mexp
from algorithms.losses.examples import by_example, raise_if_unfit


def orpo(logits: Tensor, batch: LossBatch, *, odds_weight: float = 0.1, num_items: NumItems = None) -> LossOutput:
    """Likelihood of the chosen sequence, plus `odds_weight` (lambda) times the loss of the odds ratio.

    l = mean_t log p(y_t)        log odds = l - log(1 - e^l)
    L = (1/num_items) sum_pairs [ -l_chosen - lambda log sigmoid(log odds_chosen - log odds_rejected) ]

    Items are pairs: each example has exactly one right (chosen) and one wrong (rejected) sequence. Metrics, as means
    over pairs: `nll_chosen`, `nll_rejected`, `log_odds_ratio`, `accuracy` (the chosen sequence is likelier).
    """
    examples = by_example(logits, batch)
    is_unfit = (examples.num_right != 1) | (examples.num_wrong != 1)
    raise_if_unfit(examples, is_unfit, "ORPO needs exactly one chosen (right) and one rejected (wrong)")
    number = divisor(num_items, len(examples.ids))

    chosen, rejected = (
        examples.logprobs[which][examples.index[which].argsort()]  # [P], in the order of the pairs
        for which in (examples.is_right, ~examples.is_right)
    )
    log_odds_ratio = (chosen - log1mexp(chosen)) - (rejected - log1mexp(rejected))
    loss = (-chosen - odds_weight * functional.logsigmoid(log_odds_ratio)).sum() / number
    return loss, {
        "nll_chosen": -chosen.detach().sum() / number,
        "nll_rejected": -rejected.detach().sum() / number,
        "log_odds_ratio": log_odds_ratio.detach().sum() / number,
        "accuracy": (chosen > rejected).sum().to(loss.dtype) / number,
    }
