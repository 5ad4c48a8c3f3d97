"""NCE: distil the NAT teacher, and weight each sequence by the distance of the negative model from the teacher.

Source: "Turning Dust into Gold" (arXiv 2312.12832), Negative Calibrated Enhancement, and the authors' code. p is the
NAT model (mode "mix"), m its negative side alone (mode "neg"), q the student. The teacher's outputs can be computed
once and stored: `calibration` computes beta, and `top_k` the likeliest tokens of p.

Departures from the code: the KL is computed in log space, where the code adds 1e-7 to the probabilities. beta is
always measured at temperature 1 (our choice), because it measures the distance of two models, not the softness of
the targets. So a stored beta is valid at any temperature.

Shape legend: N sequences, T tokens, V vocabulary, S scored tokens, K stored tokens.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from algorithms.losses.batch import (
    LossBatch,
    LossOutput,
    NumItems,
    at_scored,
    check_ids,
    compute_dtype,
    divisor,
    in_chunks,
    log1mexp,
    select_scored,
    sequence_sums,
)

Direction: TypeAlias = Literal["neg_nat", "nat_neg"]  # KL(m || p), KL(p || m)
Granularity: TypeAlias = Literal["sequence", "token"]


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """The teacher's outputs: p as logits or as its likeliest tokens; beta, or the logits of m to measure it."""

    nat_logits: Tensor | None = None  # [N, T, V]: p
    neg_logits: Tensor | None = None  # [N, T, V]: m
    beta: Tensor | None = None  # [N] or [N, T], from `calibration`
    topk_ids: Tensor | None = None  # [N, T, K], from `top_k`
    topk_logprobs: Tensor | None = None  # [N, T, K], natural logarithms
    topk_temperature: float = 1.0  # the `temperature` passed to `top_k`

    def __post_init__(self) -> None:
        if (self.topk_ids is None) != (self.topk_logprobs is None):
            raise ValueError("topk_ids and topk_logprobs belong together; pass both or neither")
        if (self.nat_logits is None) == (self.topk_ids is None):
            raise ValueError("a teacher needs nat_logits or topk_ids with topk_logprobs, but not both")
        if (self.neg_logits is None) == (self.beta is None):
            raise ValueError("a teacher needs neg_logits or beta, but not both")
        if self.neg_logits is not None and self.nat_logits is None:
            raise ValueError("measuring beta needs neg_logits and nat_logits; pass nat_logits too, or pass beta")


def negative_calibrated(
    logits: Tensor,
    batch: LossBatch,
    teacher: Teacher,
    *,
    direction: Direction = "neg_nat",
    granularity: Granularity = "sequence",
    temperature: float = 1.0,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
    num_items: NumItems = None,
) -> LossOutput:
    """Cross-entropy with the text, plus cross-entropy with the teacher, weighted by beta.

    beta = tanh( mean_t KL(m_t || p_t) )       per sequence; granularity `token`: tanh of each token's own KL
    L_kd = (1/num_items) sum_t (0.5 + beta) T^2 [ -sum_v p log q ]      p and q at temperature T
    L    = ce_weight (1/num_items) sum_t -log q(y_t) + kd_weight L_kd   the first q at temperature 1

    If the teacher gives only its K likeliest tokens, the others form one bucket: -sum_k p_k log q_k - p_rest log
    q_rest. This is a lower bound on the cross-entropy, because q_rest is at least any q in the bucket. It is exact
    for K = V. `direction` and `granularity` apply only if beta is measured here.

    No gradient reaches the teacher. All sequences count, right and wrong. Metrics: `nll`, `kd` (L_kd) and `beta`
    (the mean over tokens), each a sum divided by num_items.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0; 1 leaves the distributions unchanged")
    rows, targets = select_scored(logits, batch)
    _check_teacher(teacher, batch.mask, logits.shape[-1], temperature)
    number = divisor(num_items, len(targets))
    beta = teacher.beta
    if beta is None:
        assert teacher.nat_logits is not None, "Teacher.__post_init__ checks this"
        assert teacher.neg_logits is not None, "Teacher.__post_init__ checks this"
        beta = calibration(teacher.nat_logits, teacher.neg_logits, batch.mask, direction, granularity)
    betas = at_scored(beta.detach(), batch.mask)
    if bool(((betas < 0) | (betas > 1)).any()):  # NaN passes and makes the loss NaN, which the trainer detects
        raise ValueError(f"beta ranges from {float(betas.min())} to {float(betas.max())}; it must lie in [0, 1]")

    nlls, kds = [], []
    for some, ids, *positions in in_chunks(rows, targets, *batch.mask.nonzero(as_tuple=True)):
        log_q = some.log_softmax(-1, dtype=compute_dtype(some.dtype))
        nlls.append(-log_q.gather(-1, ids[:, None])[:, 0])
        softened = log_q if temperature == 1 else (log_q / temperature).log_softmax(-1)
        kds.append(_cross_entropy(softened, teacher, tuple(positions), temperature))
    nll = torch.cat(nlls).sum() / number
    kd = (torch.cat(kds) * (0.5 + betas)).sum() * temperature**2 / number
    loss = ce_weight * nll + kd_weight * kd
    return loss, {"nll": nll.detach(), "kd": kd.detach(), "beta": betas.sum().to(loss.dtype) / number}


@torch.no_grad()
def calibration(
    nat_logits: Tensor,
    neg_logits: Tensor,
    mask: Tensor,
    direction: Direction = "neg_nat",
    granularity: Granularity = "sequence",
) -> Tensor:
    """beta, the tanh of the KL between the negative and the NAT model: [N], or [N, T] per token; 0 if unscored."""
    if direction not in get_args(Direction):
        raise ValueError(f"direction={direction!r} must be one of {get_args(Direction)}")
    if granularity not in get_args(Granularity):
        raise ValueError(f"granularity={granularity!r} must be one of {get_args(Granularity)}")
    if nat_logits.shape != neg_logits.shape or nat_logits.shape[:2] != mask.shape:
        raise ValueError(
            f"nat_logits {list(nat_logits.shape)} and neg_logits {list(neg_logits.shape)} must be "
            f"[sequences, tokens, vocabulary] with the sequences and tokens of mask {list(mask.shape)}"
        )
    dtype = compute_dtype(torch.promote_types(nat_logits.dtype, neg_logits.dtype))
    divergences = []
    for positions in in_chunks(*mask.nonzero(as_tuple=True)):  # chunked indexing avoids a full copy of the logits
        log_p = nat_logits[positions].log_softmax(-1, dtype=dtype)
        log_m = neg_logits[positions].log_softmax(-1, dtype=dtype)
        first, second = (log_m, log_p) if direction == "neg_nat" else (log_p, log_m)
        weights = first.exp()
        # 0 (log 0 - ..) counts as 0, because a padded vocabulary may have logits of -inf.
        divergences.append(torch.where(weights == 0, 0, weights * (first - second)).sum(-1))
    divergence = torch.cat(divergences).clamp(min=0)  # rounding can make it negative where p equals m
    if granularity == "token":
        return divergence.new_zeros(mask.shape).masked_scatter(mask, divergence.tanh())
    return (sequence_sums(divergence, mask) / mask.sum(1).clamp(min=1)).tanh()


@torch.no_grad()
def top_k(nat_logits: Tensor, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Ids and log-probabilities [N, T, K] of the teacher's K likeliest tokens, likeliest first.

    Pass the temperature of the loss: the stored tokens do not suffice to change it later.
    """
    if not 0 < k <= nat_logits.shape[-1]:
        raise ValueError(f"k={k} must be from 1 to the vocabulary size {nat_logits.shape[-1]}")
    dtype = compute_dtype(nat_logits.dtype)
    tops = [(some.to(dtype) / temperature).log_softmax(-1).topk(k) for (some,) in in_chunks(nat_logits.flatten(0, 1))]
    shape = (*nat_logits.shape[:2], k)
    return torch.cat([top.indices for top in tops]).view(shape), torch.cat([top.values for top in tops]).view(shape)


def _cross_entropy(log_q: Tensor, teacher: Teacher, positions: tuple[Tensor, ...], temperature: float) -> Tensor:
    """-sum_v p log q [S] at some positions. The temperature is already applied to `log_q` [S, V]."""
    if teacher.nat_logits is not None:
        p = (teacher.nat_logits.detach()[positions].to(log_q.dtype) / temperature).softmax(-1)
        return -(p * log_q.masked_fill(p == 0, 0)).sum(-1)  # 0 log 0 is 0
    assert teacher.topk_ids is not None, "Teacher.__post_init__ checks this"
    assert teacher.topk_logprobs is not None, "Teacher.__post_init__ checks this"
    ids = teacher.topk_ids[positions].long()
    check_ids(ids, log_q.shape[-1], "topk_ids")
    p = teacher.topk_logprobs.detach()[positions].to(log_q.dtype).exp()
    mass = p.sum(-1)
    if bool((mass > 1.01).any()):  # the sum of log-probabilities stored in 16 bits may exceed 1 by half a percent
        raise ValueError(f"topk_logprobs sum to a probability of {float(mass.max())}; pass natural logarithms")
    log_q = log_q.gather(-1, ids)
    rest = (1 - mass).clamp(min=0) * log1mexp(log_q.logsumexp(-1))
    return -(p * log_q.masked_fill(p == 0, 0)).sum(-1) - rest


def _check_teacher(teacher: Teacher, mask: Tensor, num_vocab: int, temperature: float) -> None:
    """Raise ValueError if the teacher's tensors do not fit the student's batch."""
    for name, tensor in (("nat_logits", teacher.nat_logits), ("neg_logits", teacher.neg_logits)):
        if tensor is not None and tensor.shape != (*mask.shape, num_vocab):
            raise ValueError(f"{name} {list(tensor.shape)} must have the student's shape {[*mask.shape, num_vocab]}")
    if teacher.beta is not None and teacher.beta.shape not in (mask.shape[:1], mask.shape):
        raise ValueError(f"beta {list(teacher.beta.shape)} must be [sequences] or [sequences, tokens] of "
                         f"{list(mask.shape)}")  # fmt: skip
    if teacher.topk_ids is None or teacher.topk_logprobs is None:
        return
    if teacher.topk_ids.shape != teacher.topk_logprobs.shape or teacher.topk_ids.shape[:2] != mask.shape:
        raise ValueError(
            f"topk_ids {list(teacher.topk_ids.shape)} and topk_logprobs {list(teacher.topk_logprobs.shape)} must be "
            f"[sequences, tokens, K] with the sequences and tokens of mask {list(mask.shape)}"
        )
    if teacher.topk_temperature != temperature:
        raise ValueError(
            f"top_k ran at temperature {teacher.topk_temperature}, but the loss uses {temperature}; "
            "call top_k with the temperature of the loss"
        )
