"""CL: contrast right with wrong samples of a question, by InfoNCE.

CL is a baseline in "Turning Dust into Gold" (arXiv 2312.12832). The form and the defaults below are our choice. With
one wrong sequence, InfoNCE (van den Oord et al., arXiv 1807.03748, Eq. 4) is the loss of SimPO (Meng et al., arXiv
2405.14734, Eq. 6) with beta = 1/temperature and no margin. The authors of SimPO use beta from 2 to 10, that is
temperatures from 0.1 to 0.5.

Shape legend: N sequences, P questions, R right sequences.
"""

import torch
from torch import Tensor
from torch.nn import functional

from algorithms.losses.batch import LossBatch, LossOutput, NumItems, divisor
from algorithms.losses.examples import by_example, raise_if_unfit


def contrastive(
    logits: Tensor,
    batch: LossBatch,
    *,
    temperature: float = 0.1,
    likelihood_weight: float = 1.0,
    num_items: NumItems = None,
) -> LossOutput:
    """InfoNCE over length-normalised log-likelihoods l, plus the likelihood of the right sequences.

    InfoNCE = -log( e^{l_r/temp} / (e^{l_r/temp} + sum_{w wrong} e^{l_w/temp}) )
    L = (1/num_items) sum_questions mean_{r right} [ temp InfoNCE - likelihood_weight l_r ]

    InfoNCE only ranks the samples, so the likelihood term teaches the model to write them; weight 0 omits it.

    The temperature sets the gap between right and wrong l at which InfoNCE saturates. Against three equally likely
    wrong sequences, its gradient falls to 5% of its maximum at a gap of temp * ln(3 * 19): 4 nats per token at
    temperature 1, 0.4 at 0.1. Right and wrong samples of a question share most of their tokens, so a gap of 4 is out
    of reach. The gradient of InfoNCE grows with 1/temp; the factor temp (as in MoCo v3, Chen et al., arXiv 2104.02057,
    Alg. 1) keeps it below that of l itself. So the temperature does not shift the balance with the likelihood term.
    For temp -> 0, temp InfoNCE becomes max(0, max_w l_w - l_r), a ranking loss.

    Items are questions with at least one right and one wrong sequence. Metrics, as means over the right sequences of
    a question: `info_nce`, `nll` (per token), `accuracy` (likelier than every wrong sequence).
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0; 1 leaves the likelihoods unchanged")
    examples = by_example(logits, batch)
    is_unfit = (examples.num_right == 0) | (examples.num_wrong == 0)
    raise_if_unfit(examples, is_unfit, "CL needs at least one right and one wrong")
    number = divisor(num_items, len(examples.ids))

    scores = examples.logprobs / temperature
    is_rival = (examples.index == torch.arange(len(examples.ids), device=scores.device)[:, None]) & ~examples.is_right
    rivals = torch.where(is_rival, scores, -torch.inf)  # [P, N]
    right = examples.index[examples.is_right]  # [R]: the question of each right sequence
    margins = scores[examples.is_right] - rivals.logsumexp(1)[right]
    shares = 1 / examples.num_right[right] / number

    info_nce = (-functional.logsigmoid(margins) * shares).sum()
    nll = (-examples.logprobs[examples.is_right] * shares).sum()
    is_best = (scores[examples.is_right][:, None] > rivals[right]).all(1)
    return temperature * info_nce + likelihood_weight * nll, {
        "info_nce": info_nce.detach(),
        "nll": nll.detach(),
        "accuracy": (is_best * shares).sum(),
    }
