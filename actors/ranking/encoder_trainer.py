"""Trains an encoder ranker in one of several processes. Needs no Ray.

Each epoch draws pairs anew and ends with the pair accuracy on validation problems. The epoch with the best accuracy is
kept, and training stops when `patience` epochs have not improved it. A state is handed out after each epoch. Training
that resumes from it goes on as if it had never stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from actors.errors import UserError
from actors.models.source import ModelSource
from actors.ranking.encoder import raw_scores
from actors.ranking.pairs import draw_pairs, pair_batches
from actors.ranking.peers import Peers
from actors.ranking.token_store import GradedTokens
from algorithms.ranking.encoder_head import EncoderNetwork
from algorithms.ranking.losses import LOSSES
from algorithms.ranking.metrics import Floats, Ints, count_pairs

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class EncoderPlan:
    """How to train an encoder ranker. Plan and samples determine the ranker."""

    source: ModelSource
    window: int
    loss: str
    power: float
    pairs_per_problem: int | None  # None: all
    epochs: int
    patience: int
    learning_rate: float
    head_learning_rate: float
    warmup: float
    weight_decay: float
    max_grad_norm: float
    dropout: bool
    tokens_per_batch: int
    seed: int
    log_every: int
    device: Literal["cpu", "cuda"] = "cpu"
    num_threads: int | None = None


def rate_at(progress: float, warmup: float) -> float:
    """The share of the peak learning rate at a share of all training: linear up to `warmup`, then down to 0 at 1."""
    return min(progress / warmup if warmup else 1.0, (1 - progress) / (1 - warmup))


class EncoderTrainer:
    """Trains `network` on a process's samples.

    Every process calls `on_log` with a step and its metrics, and `on_epoch` with the state after an epoch.
    """

    def __init__(
        self,
        plan: EncoderPlan,
        network: EncoderNetwork,
        train: GradedTokens,
        validation: GradedTokens,
        peers: Peers,
        on_log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
        on_epoch: Callable[[dict[str, Any]], None] = lambda state: None,
    ) -> None:
        if plan.num_threads:
            torch.set_num_threads(plan.num_threads)
        self._plan = plan
        self._network = network.to(peers.device)
        self._train = train
        self._validation = validation
        self._peers = peers
        self._on_log = on_log
        self._on_epoch = on_epoch
        self._model: Any = self._network
        if peers.size > 1:
            devices = [peers.device] if peers.device.type == "cuda" else None
            # Some trunks have weights that an ordinary forward pass leaves out.
            self._model = DistributedDataParallel(self._network, devices, find_unused_parameters=True)
        self._optimizer = torch.optim.AdamW(self._groups())
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._epoch = self._step = self._best_epoch = 0  # epochs count from 1
        self._best_accuracy = -1.0
        self._best: Weights = {}

    def fit(self, state: dict[str, Any] | None = None) -> int:
        """Train to the end, from a state on. Leaves the weights of the best epoch, and returns its number."""
        if state is not None:
            self._restore(state)
        while self._epoch < self._plan.epochs and self._epoch - self._best_epoch < self._plan.patience:
            self._epoch += 1
            try:
                self._run_epoch()
            except Exception as error:
                error.add_note(f"in step {self._step + 1}")  # another attempt that fails there too is the last
                raise
            accuracy = self._accuracy()
            if accuracy > self._best_accuracy:
                self._best_epoch, self._best_accuracy = self._epoch, accuracy
                self._best = {name: each.detach().cpu().clone() for name, each in self._network.state_dict().items()}
            self._on_log(self._step, {"epoch": self._epoch, "validation_pair_accuracy": accuracy})
            self._on_epoch(self._state())
        self._network.load_state_dict(self._best)
        return self._best_epoch

    def scores(self, samples: GradedTokens) -> Floats:
        """The raw scores of this process's samples."""
        self._network.eval()
        return raw_scores(self._network, samples.store, self._plan.tokens_per_batch, self._peers.device)

    def _run_epoch(self) -> None:
        plan = self._plan
        # The state of torch's generator follows from the seed, so that a resumed epoch has the same dropout.
        torch.manual_seed(int(np.random.default_rng((plan.seed, self._epoch, self._peers.rank)).integers(1 << 31)))
        batches = self._batches()
        self._model.train(plan.dropout)  # the mode changes nothing but dropout: trunks have no batch normalisation
        sums: dict[str, Tensor] = {}
        for number, (pairs, weight) in enumerate(batches, 1):
            progress = (self._epoch - 1 + number / len(batches)) / plan.epochs
            loss, metrics = self._loss(pairs)
            self._take_step(loss * weight, progress)
            for name, value in metrics.items():
                counted = value.double().cpu() if weight else torch.zeros((), dtype=torch.float64)
                sums[name] = sums.get(name, 0) + counted
            if self._step % plan.log_every == 0 or number == len(batches):
                self._log(sums, progress)
                sums = {}

    def _batches(self) -> list[tuple[Ints, float]]:
        """This process's batches of pairs, each with the weight of its loss, as many as every other process has.

        The weights make the loss of a step the mean over the pairs of all processes: DDP takes the mean over the
        processes. One that has no batch left repeats its first with weight 0.
        """
        plan, train, peers = self._plan, self._train, self._peers
        pairs = draw_pairs(train.right, train.problems, plan.pairs_per_problem, plan.seed, self._epoch)
        chance = np.random.default_rng((plan.seed, self._epoch))
        own = pair_batches(pairs, train.store.lengths, plan.tokens_per_batch, chance)
        counts = torch.zeros(peers.largest(len(own)), dtype=torch.float64)
        counts[: len(own)] = torch.tensor([len(batch) for batch in own], dtype=torch.float64)
        weights = (peers.size / peers.total(counts)).tolist()
        idle = [(own[0], 0.0)] * (len(counts) - len(own))
        return [*zip(own, weights, strict=False), *idle]

    def _loss(self, pairs: Ints) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of pairs and its metrics, as sums."""
        device = self._peers.device
        tokens = self._train.store.batch(pairs.T.reshape(-1)).to(device)  # all right solutions, then all wrong ones
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits_B = self._model(tokens.tokens_BT, tokens.attention_BT, tokens.solution_BT)
        right_P, wrong_P = logits_B.chunk(2)
        loss, metrics = LOSSES[self._plan.loss](right_P, wrong_P, self._plan.power)
        num_tokens, num_pairs = tokens.attention_BT.sum(), torch.tensor(len(pairs))
        return loss, {"loss": loss.detach(), **metrics, "num_tokens": num_tokens, "num_pairs": num_pairs}

    def _take_step(self, loss: Tensor, progress: float) -> None:
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * rate_at(progress, self._plan.warmup)
        self._optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._plan.max_grad_norm or float("inf"))
        if not norm.isfinite():  # on all processes alike
            raise UserError("the loss or its gradient is not finite: lower --learning-rate")
        self._optimizer.step()
        self._step += 1

    def _log(self, sums: dict[str, Tensor], progress: float) -> None:
        totals = dict(zip(sums, self._peers.total(torch.stack(list(sums.values()))).tolist(), strict=True))
        num_tokens, num_pairs = totals.pop("num_tokens"), totals.pop("num_pairs")
        means = {name: total / num_pairs for name, total in totals.items()}
        rate = self._plan.learning_rate * rate_at(progress, self._plan.warmup)
        passes = progress * self._plan.epochs
        self._on_log(self._step, {**means, "num_tokens": num_tokens, "learning_rate": rate, "epoch": passes})

    def _accuracy(self) -> float:
        """The pair accuracy on all validation problems."""
        samples = self._validation
        pairs = count_pairs(self.scores(samples), samples.right, samples.problems)
        won, number = self._peers.total(torch.tensor([pairs.won.sum(), pairs.pairs.sum()])).tolist()
        return won / number

    def _groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups: trunk and head, and in each the matrices, which alone decay."""
        groups = []
        parts = ((self._network.trunk, self._plan.learning_rate), (self._network.head, self._plan.head_learning_rate))
        for part, rate in parts:
            every = list(part.parameters())
            groups.append(
                {"params": [p for p in every if p.ndim > 1], "lr": rate, "weight_decay": self._plan.weight_decay}
            )
            groups.append({"params": [p for p in every if p.ndim < 2], "lr": rate, "weight_decay": 0.0})
        return groups

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "step": self._step,
            "best_epoch": self._best_epoch,
            "best_accuracy": self._best_accuracy,
            "best": self._best,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._epoch, self._step = state["epoch"], state["step"]
        self._best_epoch, self._best_accuracy, self._best = state["best_epoch"], state["best_accuracy"], state["best"]
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
