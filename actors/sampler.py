"""Samples answers in a Ray actor: each row is a coroutine that waits for its samples, and one engine batches them."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa

from actors.engines.protocol import Engine, SampleRequest
from actors.runs.folder import RunFolder
from actors.runs.ledger import Ledger, Row
from actors.runs.record_kinds import SAMPLING
from actors.runs.session import check_session
from algorithms.problems import SAMPLE_FACTS
from algorithms.prompts import PromptStyle
from algorithms.row_errors import RowError
from algorithms.sampling import Sample, SamplingParams, sample_seed

RECORDED: Final = ("text", *SAMPLE_FACTS)
QUEUED_PER_PLACE: Final = 4  # waiting requests for each one at work: enough for the engine to choose from


def rows_at_once(concurrency: int, num_samples: int) -> int:
    """Rows that a sampler holds at once, whose engine works on `concurrency` requests at once."""
    return max(1, QUEUED_PER_PLACE * concurrency // num_samples)


class Sampler:
    """The worker of `jobs.sample`: a batch of questions in, the number of rows out.

    Draws `num_samples` for each question. `params.seed` is the run's: each sample gets a seed of its own. One terminal
    record for each question, with all its samples, goes to the run's `rows`.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        style: PromptStyle,
        params: SamplingParams,
        num_samples: int,
        run: RunFolder,
        session: str,
    ) -> None:
        check_session(run, session)  # before minutes go into loading a model
        self._engine = make_engine()
        self._style = style
        self._params = params
        self._num_samples = num_samples
        self._ledger = Ledger(run, session, SAMPLING, rows_at_once(self._engine.concurrency, num_samples))
        self._seconds = 0.0

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Sample and commit one batch."""
        return await self._ledger.process(table, self._answer)

    async def _answer(self, row: Row) -> None:
        try:
            samples = await self._draw(row)
        except RowError as error:
            self._ledger.quarantine(row, error)
        else:
            self._ledger.finish(row, _record(samples))
        seconds, self._seconds = self._engine.forward_seconds - self._seconds, self._engine.forward_seconds
        self._ledger.spend(forward_seconds=seconds)

    async def _draw(self, row: Row) -> list[Sample]:
        """All samples of a row. If one of them raises, the others are cancelled."""
        prompt = self._style.prompt(row["question"])
        seeds = [sample_seed(self._params.seed, row["id"], index) for index in range(self._num_samples)]
        requests = [SampleRequest(prompt, replace(self._params, seed=seed)) for seed in seeds]
        tasks = [asyncio.ensure_future(self._engine.sample(request)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()


def _record(samples: list[Sample]) -> dict[str, Any]:
    return {
        "status": "sampled",
        "reason": None,
        "samples": [{name: getattr(sample, name) for name in RECORDED} for sample in samples],
        "num_samples": len(samples),
        "num_tokens": sum(sample.num_tokens for sample in samples),
        "num_cut": sum(sample.finish_reason == "length" for sample in samples),
    }
