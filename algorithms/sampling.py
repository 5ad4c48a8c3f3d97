"""What sampling answers means: its parameters, what a sample is, and where its randomness comes from.

Every sample has a seed of its own, made of the run's seed, the row's id and the sample's number: a sample is
the same whatever it is batched with, on whichever actor, before or after a restart.

Shape legend: B batch, V vocabulary.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:  # what asks an endpoint for samples needs no torch
    from torch import Tensor

FinishReason: TypeAlias = Literal["stop", "length"]
Message: TypeAlias = tuple[str, str]  # role, content
Prompt: TypeAlias = str | tuple[Message, ...]  # a text, or a conversation for the model's chat template


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How answers are drawn. `temperature` 0 is greedy; `top_p` 1 is the whole distribution.

    A text of `stop` ends a sample, and is not part of it.
    """

    num_samples: int = 8
    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer.

    `mean_logprob` is the mean natural log-probability of its tokens, the end-of-sequence token too where the
    model ended it, under the model itself (temperature 1, no top-p). None where an engine does not tell.
    """

    text: str
    num_tokens: int
    finish_reason: FinishReason
    mean_logprob: float | None


def sample_seed(seed: int, row_id: str, index: int) -> int:
    """The seed of sample `index` of a row: 63 bits, stable between machines and versions."""
    digest = hashlib.blake2b(f"{seed}\0{row_id}\0{index}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def choose_tokens(
    logits: "Tensor", exponentials: "Tensor | None", temperature: float, top_p: float, margin: float = 0.0
) -> "tuple[Tensor, Tensor]":
    """Draw one token per row by an exponential race: the tokens [B], and whether each choice is in doubt [B].

    `logits` [B, V] in float32; `exponentials` [B, V], one draw of Exp(1) per token, not needed for temperature 0.
    The token of the largest p / E is a draw from p (Gumbel-max: log p - log E), and depends on each token's own
    E only. A token is in the nucleus if all tokens more likely than it hold less than `top_p`: the most likely
    one always is, equally likely ones all are or all are not. It is found without sorting: the winner of the
    race is tested, and if it is outside, so is all that is no likelier; the rest races again.

    A choice is in doubt if logits that differ from these by less than half of `margin` may choose otherwise: the
    runner-up is too close, or the winner too near the edge of the nucleus.
    """
    if temperature == 0:
        top = logits.topk(2)
        return top.indices[:, 0], top.values[:, 0] - top.values[:, 1] < margin
    assert exponentials is not None, "only temperature 0 goes without randomness"
    scaled = logits / temperature
    margin /= temperature
    scores = scaled - exponentials.log()
    top = scores.topk(2)
    if top_p >= 1:
        return top.indices[:, 0], top.values[:, 0] - top.values[:, 1] < margin
    probabilities = scaled.softmax(-1)

    def mass_above(levels: "Tensor") -> "Tensor":
        return (probabilities * (scaled > levels)).sum(-1)

    while True:
        levels = scaled.gather(-1, top.indices[:, :1])  # of the winners, [B, 1]
        mass = mass_above(levels + margin)
        outside = ((mass >= top_p + margin) & (mass > 0)).nonzero()[:, 0]
        if len(outside) == 0:
            break
        scores[outside] = scores[outside].masked_fill(scaled[outside] <= levels[outside], float("-inf"))
        top = scores.topk(2)
    winners = top.indices[:, :1]
    largest_mass = mass_above(levels - margin) - probabilities.gather(-1, winners)[:, 0]  # less the winner's own
    too_close = top.values[:, 0] - top.values[:, 1] < margin
    return winners[:, 0], too_close | (largest_mass >= top_p - margin)
