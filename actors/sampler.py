"""Samples answers in a Ray actor: every row is a coroutine that waits for its samples, one engine batches them."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa

from actors.engine_protocol import Engine, SampleRequest
from actors.ledger import Ledger, Row, check_session
from actors.record_kinds import SAMPLING
from actors.storage import Storage
from algorithms.prompts import PromptStyle
from algorithms.row_errors import RowError
from algorithms.sampling import Sample, SamplingParams, sample_seed

QUEUED_PER_PLACE: Final = 4  # requests that wait for each one at work: enough to choose from


class Sampler:
    """The callable that Ray Data runs: a batch of questions in, how many rows it had out.

    One terminal record a question, with all its samples, goes to `run/rows`.
    """

    def __init__(
        self, make_engine: Callable[[], Engine], style: PromptStyle, params: SamplingParams, run: Storage, session: str
    ) -> None:
        check_session(run, session)  # before minutes go into loading a model
        self._engine = make_engine()
        self._style = style
        self._params = params
        self._ledger = Ledger(run, session, SAMPLING)
        num_rows = max(1, QUEUED_PER_PLACE * self._engine.concurrency // params.num_samples)
        self._places = asyncio.Semaphore(num_rows)
        self._tasks: set[asyncio.Task[None]] = set()
        self._seconds = 0.0

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Sample and commit one batch."""
        return await self._ledger.process(table, self._begin)

    def _begin(self, rows: list[Row]) -> None:
        for row in rows:
            task = asyncio.create_task(self._answer(row))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, row: Row) -> None:
        try:
            async with self._places:
                samples = await self._draw(row)
            if isinstance(samples, RowError):
                self._ledger.quarantine(row, samples)
            else:
                self._ledger.finish(row, sampled(samples))
            seconds, self._seconds = self._engine.forward_seconds - self._seconds, self._engine.forward_seconds
            self._ledger.spend(forward_seconds=seconds)
        except BaseException as error:
            await self._ledger.fail(error)
            raise

    async def _draw(self, row: Row) -> list[Sample] | RowError:
        """All samples of a row, or why it can have none."""
        prompt = self._style.prompt(row["question"])
        seeds = [sample_seed(self._params.seed, row["id"], index) for index in range(self._params.num_samples)]
        tasks = [asyncio.ensure_future(self._engine.sample(SampleRequest(prompt, seed))) for seed in seeds]
        try:
            return list(await asyncio.gather(*tasks))
        except RowError as error:
            return error
        finally:
            for task in tasks:
                task.cancel()


def sampled(samples: list[Sample]) -> dict[str, Any]:
    """The record of a row with its samples, in their order."""
    return {
        "status": "sampled",
        "reason": None,
        "samples": [
            {
                "text": sample.text,
                "num_tokens": sample.num_tokens,
                "finish_reason": sample.finish_reason,
                "mean_logprob": sample.mean_logprob,
            }
            for sample in samples
        ],
        "num_samples": len(samples),
        "num_tokens": sum(sample.num_tokens for sample in samples),
        "num_cut": sum(sample.finish_reason == "length" for sample in samples),
    }
