"""Scores candidate few-shot prompts in a Ray actor, keeps each score in the run's folder, and merges steps."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from actors.errors import UserError
from actors.merging.build import MakeMerger
from actors.runs.folder import RunFolder
from actors.runs.replies import Replies
from actors.scoring.protocol import Scored, Scorer, ScoringTask
from algorithms.demonstrations import PromptRequest
from algorithms.refinement.requests import MergeReply, MergeRequest
from algorithms.row_errors import RowError


class Demonstrator:
    """The worker of `jobs.demos`: a candidate prompt in, its score out.

    While one prompt is scored, a second call may prepare the next. Ray reports an exception in a constructor only as
    text, so a UserError of the scorer is kept, and raised by the first call.
    """

    def __init__(
        self, make_scorer: Callable[[], Scorer], run: RunFolder, make_merger: MakeMerger | None = None
    ) -> None:
        self._replies = Replies(run)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._error: UserError | None = None
        try:
            self._scorer = make_scorer()
            self._merger = make_merger(self._scorer, run) if make_merger else None
        except UserError as error:
            self._error = error

    async def ready(self) -> None:
        """Return once the model is loaded. Raises the UserError for a model that cannot be used."""
        if self._error is not None:
            raise self._error

    async def __call__(self, asked: PromptRequest) -> dict[str, Any]:
        """Score one prompt and save its reply. Raises UserError for a prompt that cannot be scored."""
        await self.ready()
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(None, self._replies.find, asked)
        if reply is not None:  # Ray repeats the calls of an actor that died
            return reply
        try:
            task = await self._scorer.prepare(asked.request, None)
            result, seconds = await loop.run_in_executor(self._thread, self._score, task)
            if isinstance(result, RowError):
                raise result
        except RowError as error:
            raise UserError(f"--demos: a prompt with a calibration row cannot be scored: {error}") from None
        [prompt_tokens] = await self._scorer.count_tokens([asked.prompt])
        reply = {
            "perplexities": result.perplexities,
            "num_scored": result.num_scored,
            "prompt_tokens": prompt_tokens,
            "tokens_forwarded": result.tokens_forwarded,
            "tokens_separate_forwards": result.tokens_naive,
            "seconds": seconds,
        }
        await loop.run_in_executor(None, self._replies.save, asked, reply)
        return reply

    async def merge(self, asked: Sequence[MergeRequest]) -> list[MergeReply]:
        """The reply to each request. Raises UserError if the merger's endpoint refuses access."""
        assert self._merger is not None, "only a policy with a merger asks for merges"
        return list(await asyncio.gather(*map(self._merger.merge, asked)))

    def _score(self, task: ScoringTask) -> tuple[Scored | RowError, float]:
        """The result and the seconds that it took."""
        started = time.perf_counter()
        [result] = self._scorer.score([task])
        return result, time.perf_counter() - started
