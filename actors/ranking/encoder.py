"""A ranker that reads the solution: an encoder over question and solution, with a head (Adaptive Self-Consistency)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from actors.ranking.encoder_files import read_network
from actors.ranking.pairs import cut_batches
from actors.ranking.token_store import TokenStore
from actors.ranking.tokens import SolutionTokenizer
from algorithms.ranking.calibration import Calibration
from algorithms.ranking.encoder_head import EncoderNetwork
from algorithms.ranking.metrics import Floats
from algorithms.ranking.solutions import Solution

if TYPE_CHECKING:
    from actors.ranking.folder import RankerFolder

TOKENS_PER_BATCH: Final = {"cpu": 1 << 13, "cuda": 1 << 16}


class EncoderRanker:
    """A trained network on a device, with the tokenizer of its trunk."""

    def __init__(
        self,
        network: EncoderNetwork,
        tokenizer: SolutionTokenizer,
        calibration: Calibration,
        device: str = "cpu",
        num_threads: int | None = None,
    ) -> None:
        if num_threads:
            torch.set_num_threads(num_threads)
        self._device = torch.device(device)
        self._network = network.to(self._device).eval()
        self._tokenizer = tokenizer
        self._calibration = calibration
        self._tokens_per_batch = TOKENS_PER_BATCH[self._device.type]

    @classmethod
    def load(cls, folder: "RankerFolder", device: str = "cpu", num_threads: int | None = None) -> "EncoderRanker":
        """The ranker in a folder. Raises UserError if its files are missing or do not fit."""
        network, tokenizer = read_network(folder.storage, folder.settings["files"])
        solution_tokenizer = SolutionTokenizer(tokenizer, folder.settings["window"])
        return cls(network, solution_tokenizer, folder.calibration, device, num_threads)

    def score(self, solutions: Sequence[Solution]) -> list[float]:
        """For each solution a calibrated probability in (0, 1) that it is right."""
        if not solutions:
            return []
        store = TokenStore.of(self._tokenizer(solutions))
        raw = raw_scores(self._network, store, self._tokens_per_batch, self._device)
        return [float(value) for value in self._calibration(raw)]


@torch.inference_mode()
def raw_scores(network: EncoderNetwork, store: TokenStore, tokens_per_batch: int, device: torch.device) -> Floats:
    """The scores of all samples in a store before calibration, in its order. The network is in evaluation mode.

    In float32 on a GPU too: bfloat16 ties scores.
    """
    scores = np.empty(len(store))
    for batch in cut_batches(store.lengths, tokens_per_batch):
        tokens = store.batch(batch).to(device)
        logits_B = network(tokens.tokens_BT, tokens.attention_BT, tokens.solution_BT)
        scores[batch] = torch.sigmoid(logits_B.double()).cpu().numpy()
    return scores
