"""Where requests are prepared while the scorer's thread is busy.

in a thread      for a scorer on the CPU: it computes in the same cores, so processes would only add their start,
                 some seconds, and copies
in processes     for a scorer on a GPU: the tokenizer's results become Python objects, which keeps the interpreter's
                 lock from the thread that feeds the GPU
"""

import asyncio
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from actors.errors import CallCrashed, CallTimedOut
from actors.processes.pool import KillablePool
from actors.scoring.preparation import Preparation, PreparedRequest
from algorithms.refinement.requests import ScoreRequest
from algorithms.row_errors import RowError

LIMIT_SECONDS: Final = 300.0  # no row takes this long that fits a model's window
ATTEMPTS: Final = 2  # a process may also die of something else than its row

Result = TypeVar("Result")


class Preparer(Protocol):
    """Prepares requests, `num_at_once` at a time. Raises RowError."""

    num_at_once: int

    async def prepare(self, request: ScoreRequest) -> PreparedRequest: ...  # noqa: D102

    async def count_tokens(self, texts: Sequence[str]) -> list[int]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class ThreadPreparer:
    """Prepares in one thread. The tokenizer itself may use more."""

    num_at_once = 1

    def __init__(self, tokenizer: Any, window: int) -> None:
        self._preparation = Preparation(tokenizer, window)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prepare")

    async def prepare(self, request: ScoreRequest) -> PreparedRequest:
        """The request as arrays."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._preparation, request)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in tokens."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._preparation.count_tokens, texts)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)


class ProcessPreparer:
    """Prepares in `num_processes` processes of one thread each.

    A row whose preparation kills its process twice, or takes longer than `limit_seconds`, gets a RowError.
    """

    def __init__(self, tokenizer: Any, window: int, num_processes: int, limit_seconds: float = LIMIT_SECONDS) -> None:
        self.num_at_once = num_processes
        self._limit_seconds = limit_seconds
        start = functools.partial(_start, tokenizer, window)
        self._pool = KillablePool(num_processes, preload=(__name__,), prepare=start)

    async def prepare(self, request: ScoreRequest) -> PreparedRequest:
        """The request as arrays."""
        return await self._call(_prepare, request)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in tokens."""
        return await self._call(_count_tokens, texts)

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    async def _call(self, function: Callable[[Any], Result], argument: Any) -> Result:
        for _ in range(ATTEMPTS):
            try:
                return await self._pool.call(function, argument, limit_seconds=self._limit_seconds)
            except CallCrashed as error:
                crash = error
            except CallTimedOut as error:
                raise RowError("raised", f"its preparation took longer than {error}") from None
        raise RowError("kills_the_process", f"preparing it, {crash}")


# In a preparing process: its preparation, made once.
_preparation: Preparation | None = None


def _start(tokenizer: Any, window: int) -> None:
    global _preparation
    # The processes are as many as there are cores for them, and threads do not survive a fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _preparation = Preparation(tokenizer, window)


def _prepare(request: ScoreRequest) -> PreparedRequest:
    assert _preparation is not None, "the pool starts each process with _start"
    return _preparation(request)


def _count_tokens(texts: Sequence[str]) -> list[int]:
    assert _preparation is not None, "the pool starts each process with _start"
    return _preparation.count_tokens(texts)
