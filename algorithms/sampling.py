"""Sampling: its parameters, what a sample is, and where its randomness comes from.

Every sample has its own seed, made from the run's seed, the row's id and the sample's index. A sample is therefore the
same whatever it is batched with, on whichever actor, before or after a restart.

Shape legend: B batch, V vocabulary.
"""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:  # the client of an endpoint needs no torch
    from torch import Tensor

FinishReason: TypeAlias = Literal["stop", "length"]
Message: TypeAlias = tuple[str, str]  # role, content
Prompt: TypeAlias = str | tuple[Message, ...]  # a text, or a conversation for the model's chat template


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sample is drawn.

    `temperature` 0 is greedy, and `top_p` 1 the whole distribution. A text of `stop` ends the sample and is not part
    of it. The same `seed` gives the same sample.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer.

    `num_tokens` counts its tokens, including the end-of-sequence token if the model ended it. `mean_logprob` is the
    mean natural log-probability of these tokens under the model itself (temperature 1, no top-p), and None if an engine
    does not report it. `tokens`: the text and the log-probability of each token, only where they were asked for.
    `num_prompt_tokens`: None if an engine does not report it.
    """

    text: str
    num_tokens: int
    finish_reason: FinishReason
    mean_logprob: float | None
    tokens: tuple[tuple[str, float], ...] | None = None
    num_prompt_tokens: int | None = field(default=None, compare=False)


def sample_seed(seed: int, row_id: str, index: int) -> int:
    """The seed of sample `index` of a row: 63 bits, stable between machines and versions."""
    digest = hashlib.blake2b(f"{seed}\0{row_id}\0{index}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def choose_tokens(
    logits: "Tensor", exponentials: "Tensor", temperatures: "Tensor", top_ps: "Tensor", margin: float = 0.0
) -> "tuple[Tensor, Tensor]":
    """Draw one token for each row by an exponential race: the tokens [B], and whether each choice is in doubt [B].

    `logits` [B, V] in float32; `exponentials` [B, V], a draw of Exp(1) for each token, ignored in greedy rows;
    `temperatures` [B], 0 for greedy; `top_ps` [B]. Both are float64.

    The token of the largest p / E is a draw from p (Gumbel-max: log p - log E), and depends only on each token's own E.
    A token is in the nucleus if all more likely tokens together hold less than `top_p`. So the most likely token is
    always in, and equally likely tokens are all in or all out. The nucleus is found without sorting: the winner of the
    race is tested; if it is outside, so is every token that is no likelier, and the others race again.

    A choice is in doubt if logits that differ by less than half of `margin` could change it: the runner-up is too
    close, or the winner is too near the edge of the nucleus.
    """
    greedy = temperatures == 0
    temperatures = temperatures.masked_fill(greedy, 1.0)
    whole = greedy | (top_ps >= 1)  # these rows have no nucleus
    scaled = logits / temperatures[:, None].float()
    margins = (margin / temperatures)[:, None]  # [B, 1]
    scores = scaled - exponentials.masked_fill(greedy[:, None], 1.0).log()
    top = scores.topk(2)
    if whole.all():
        return top.indices[:, 0], top.values[:, 0] - top.values[:, 1] < margins[:, 0]
    probabilities = scaled.softmax(-1)
    top_ps = top_ps.masked_fill(whole, 2.0)[:, None]  # no mass reaches 2
    most, least = (top_ps + margins).float(), (top_ps - margins).float()
    margins = margins.float()

    def mass_above(levels: "Tensor") -> "Tensor":
        return (probabilities * (scaled > levels)).sum(-1, keepdim=True)

    while True:
        levels = scaled.gather(-1, top.indices[:, :1])  # of the winners, [B, 1]
        mass = mass_above(levels + margins)
        outside = ((mass >= most) & (mass > 0)).nonzero()[:, 0]
        if len(outside) == 0:
            break
        scores[outside] = scores[outside].masked_fill(scaled[outside] <= levels[outside], float("-inf"))
        top = scores.topk(2)
    winners = top.indices[:, :1]
    largest_mass = mass_above(levels - margins) - probabilities.gather(-1, winners)  # without the winner's own
    too_close = top.values[:, 0] - top.values[:, 1] < margins[:, 0]
    return winners[:, 0], too_close | (largest_mass >= least)[:, 0]
