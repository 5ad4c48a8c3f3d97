"""CL: right against wrong samples of a question, by InfoNCE (papers.md B4).

Inferred [I]: the form below is our reading of that baseline, not known to be the paper's; so are its defaults.

Shape legend: N sequences, P questions, R right sequences.
"""

import torch
from torch import Tensor
from torch.nn import functional

from algorithms.losses.batch import LossBatch, LossOutput, NumItems, divisor
from algorithms.losses.examples import by_example, refuse


def contrastive(
    logits: Tensor,
    batch: LossBatch,
    *,
    temperature: float = 1.0,
    likelihood_weight: float = 1.0,
    num_items: NumItems = None,
) -> LossOutput:
    """InfoNCE over length-normalised log-likelihoods l, and the likelihood of the right sequences.

    L = (1/num_items) sum_questions mean_{r right} [ -log( e^{l_r/temp} / (e^{l_r/temp} + sum_{w wrong} e^{l_w/temp}) )
                                                     - likelihood_weight l_r ]

    InfoNCE only orders the samples and does not teach to write: hence the likelihood, 0 leaves it out. l is in nats
    per token, so at temperature 1 a right sample is apart from a wrong one only when several nats per token are
    between them; a lower one is content sooner, and weighs 1/temperature against the likelihood.

    Items are questions, each with at least one right and one wrong sequence. Metrics, means over a question's right
    sequences: `info_nce`, `nll` (per token), `accuracy` (likelier than every wrong one).
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0; 1 leaves the likelihoods as they are")
    examples = by_example(logits, batch)
    refuse(examples, (examples.num_right == 0) | (examples.num_wrong == 0), "CL needs one right and one wrong at least")
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
    return info_nce + likelihood_weight * nll, {
        "info_nce": info_nce.detach(),
        "nll": nll.detach(),
        "accuracy": (is_best * shares).sum(),
    }
