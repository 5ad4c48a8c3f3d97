"""The sequences of a batch grouped by example, with length-normalised log-likelihoods.

Shape legend: N sequences, P examples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.losses.batch import LossBatch, select_scored, sequence_sums, target_logprobs


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """The sequences of a batch, grouped by example."""

    logprobs: Tensor  # [N]: the mean log-probability of a sequence's scored tokens
    is_right: Tensor  # [N] bool
    index: Tensor  # [N] int64: the example of a sequence, 0..P-1 in the order of `ids`
    ids: Tensor  # [P]: the distinct `group` values of the batch
    num_right: Tensor  # [P]
    num_wrong: Tensor  # [P]


def by_example(logits: Tensor, batch: LossBatch) -> Examples:
    """Score each sequence and group the sequences by example. A batch without scored tokens has no examples."""
    logprobs = target_logprobs(*select_scored(logits, batch))
    mask, is_right, group = batch.mask, batch.is_right, batch.group
    if len(logprobs) == 0:  # an empty micro-batch has nothing to compare, but keeps its graph to the logits
        mask, is_right, group = mask[:0], is_right[:0], group[:0]
    lengths = mask.sum(1)
    empty = (lengths == 0).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(f"sequences {empty} have no scored token, so they have no likelihood; drop their examples")
    ids, index = torch.unique(group, return_inverse=True)
    num_right, num_wrong = (index[which].bincount(minlength=len(ids)) for which in (is_right, ~is_right))
    return Examples(sequence_sums(logprobs, mask) / lengths, is_right, index, ids, num_right, num_wrong)


def raise_if_unfit(examples: Examples, unfit: Tensor, demand: str) -> None:
    """Raise ValueError for the first example marked in `unfit` [P] bool. The message states its counts and `demand`."""
    if bool(unfit.any()):
        which = int(unfit.nonzero()[0, 0])
        raise ValueError(
            f"example {int(examples.ids[which])} has {int(examples.num_right[which])} right and "
            f"{int(examples.num_wrong[which])} wrong sequences; {demand}"
        )
