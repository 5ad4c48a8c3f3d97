"""A pool of processes that are killed when a call takes too long, and replaced when they die.

SymPy can compute on one expression for hours, in C code that no Python signal interrupts, or fill the memory. So each
process has a memory limit, and before each call it asks the kernel to kill it once the call has used far more
processor time than it may, even if the parent is gone by then.
"""

import asyncio
import math
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

import pebble
from pebble import ProcessExpired, ProcessPool

from actors.errors import CallCrashed, CallTimedOut

TASKS_PER_PROCESS: Final = 1000  # then it is replaced: caches grow
KILL_AFTER_SECONDS: Final = 0.2  # C code does not hear SIGTERM, and the pool waits this long for it
MEMORY_BYTES: Final = 2 << 30

Result = TypeVar("Result")


class KillablePool:
    """`num_processes` processes. `preload` names the modules that are imported once, `prepare` runs in each process.

    `memory_bytes` bounds what a process may allocate beyond what it holds after `prepare`.
    """

    def __init__(
        self,
        num_processes: int,
        preload: Sequence[str] = (),
        prepare: Callable[[], None] | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        # A fork of this process would carry Ray's threads in an unknown state. The fork server imports once and
        # replaces a killed process within milliseconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["actors.processes.pool", *preload])
        pebble.CONSTS.term_timeout = KILL_AFTER_SECONDS
        self._calls: set[Future[Any]] = set()
        self._pool = ProcessPool(
            max_workers=num_processes,
            max_tasks=TASKS_PER_PROCESS,
            context=context,
            initializer=_prepare,
            initargs=(prepare, memory_bytes),
        )

    async def call(self, function: Callable[..., Result], *arguments: Any, limit_seconds: float) -> Result:
        """The result of `function(*arguments)`, both picklable.

        Raises CallTimedOut past the limit, CallCrashed if the process dies, and what the function raises, MemoryError
        among it.
        """
        future: Future[Result] = self._pool.schedule(
            _limited, args=(limit_seconds, function, arguments), timeout=limit_seconds
        )
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        try:
            return await asyncio.wrap_future(future)
        except TimeoutError:
            raise CallTimedOut(f"{limit_seconds:g} s") from None
        except ProcessExpired as death:
            raise CallCrashed(f"exit code {death.exitcode}") from None

    def close(self) -> None:
        """Kill the processes. Calls in flight are cancelled."""
        for future in list(self._calls):
            future.cancel()  # stopping alone would leave them waiting
        self._pool.stop()
        self._pool.join()


def _prepare(prepare: Callable[[], None] | None, memory_bytes: int) -> None:
    if prepare is not None:
        prepare()
    statm = Path("/proc/self/statm")
    if statm.exists():  # other systems than Linux do not enforce the limit
        in_use = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_at_most(in_use + memory_bytes, hard), hard))


def _limited(limit_seconds: float, function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    last_second = math.ceil(time.process_time() + 3 * limit_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (_at_most(last_second, hard), hard))
    return function(*arguments)


def _at_most(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
