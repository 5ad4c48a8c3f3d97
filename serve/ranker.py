"""A replica of the ranker: scores solutions in batches that it fills while it works.

A ranker that cannot be loaded does not stop the graph: each call then says why there is no score, the ingress votes by
count, and `/healthz` tells it.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ray import serve

from actors.errors import UserError
from actors.ranking.folder import open_ranker
from actors.ranking.protocol import Ranker
from algorithms.answers.kinds import MATHEMATICAL
from algorithms.ranking.solutions import Solution
from serve.logs import join_serve_logs
from serve.protocol import Score
from serve.telemetry import RankerMetrics

logger = logging.getLogger(__name__)

BATCH: Final = 64
WAIT_SECONDS: Final = 0.002
LINEAGE: Final = ("groups", "num_trees", "window")
UNLOADABLE: Final = "the ranker cannot be loaded: the log of its replica says why"


class RankerReplica:
    """Holds the ranker in the folder or run at `uri`."""

    def __init__(self, uri: str, device: str = "cpu", num_threads: int | None = None) -> None:
        join_serve_logs()
        self._ranker: Ranker | None = None
        self._problem: str | None = None
        self._facts: dict[str, Any] = {}
        self._metrics = RankerMetrics()
        self._thread = ThreadPoolExecutor(1)  # a model scores one batch at a time
        try:
            folder = open_ranker("ranker", uri)
            told = {name: value for name, value in folder.settings.items() if name in LINEAGE}
            measured = folder.settings.get("measured", {}).get("held_out", {})
            told |= {name: measured[name] for name in ("pair_accuracy", "calibration_error") if name in measured}
            self._facts = {"kind": folder.kind, "answers": folder.settings.get("answers", "mathematics"), **told}
            self._ranker = folder.load(device, num_threads)
        except Exception as error:  # noqa: BLE001  without a ranker the graph still answers
            self._problem = UNLOADABLE  # clients read it, and the reason names this machine's folders
            log = logger.error if isinstance(error, UserError) else logger.exception
            log("the ranker cannot be loaded: %s", " ".join(str(error).split()))

    def describe(self) -> dict[str, Any]:
        """What the ranker is, and its problem, None if it scores."""
        return {**self._facts, "problem": self._problem}

    async def score(self, solution: Solution, kind: str) -> Score:
        """The score of one solution, or why there is none. Solutions that wait at the same time are scored together."""
        problem = self.problem_with(kind)
        return Score(None, problem) if problem is not None else await self._batched(solution)

    def problem_with(self, kind: str) -> str | None:
        """Why answers of a kind cannot be scored, None if they can."""
        if self._problem is not None:
            return self._problem
        answers = self._facts["answers"]
        if kind == answers or (answers == "mathematics" and kind in MATHEMATICAL):
            return None
        return f"the ranker was trained on {answers}, not on answers of kind {kind}"

    def score_together(self, solutions: Sequence[Solution]) -> list[Score]:
        """The scores of several solutions. If scoring raises, each alone: the others must not suffer for one."""
        assert self._ranker is not None
        try:
            return [Score(value) for value in self._ranker.score(solutions)]
        except Exception as error:  # noqa: BLE001  whatever one of the texts makes the ranker raise
            if len(solutions) == 1:
                return [Score(None, f"the ranker raised {type(error).__name__}")]
            return [score for solution in solutions for score in self.score_together([solution])]

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SECONDS)
    async def _batched(self, solutions: Sequence[Solution]) -> list[Score]:
        started = time.monotonic()
        scores = await asyncio.get_running_loop().run_in_executor(self._thread, self.score_together, list(solutions))
        self._metrics.scored(len(solutions), time.monotonic() - started)
        return scores
