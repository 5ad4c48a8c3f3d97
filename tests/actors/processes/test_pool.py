"""Processes that are killed: a call past its limit ends alone, and others go on."""

import asyncio
import os
import time

import psutil
import pytest

from actors.errors import CallCrashed, CallTimedOut
from actors.processes.pool import KillablePool


@pytest.fixture(scope="module")
def pool():
    pool = KillablePool(2, memory_bytes=200 << 20)
    yield pool
    pool.close()


def call(pool, function, *arguments, limit_seconds=20.0):
    return asyncio.run(pool.call(function, *arguments, limit_seconds=limit_seconds))


def sleep_and_return(seconds, value):
    time.sleep(seconds)
    return value


def grow(factor):
    return len(bytes(factor << 20))


def in_c(digits):
    """One operation in C that no signal handler of Python interrupts."""
    return 7 ** (10**digits)


def test_a_call_returns_what_the_function_returns(pool):
    assert call(pool, divmod, 17, 5) == (3, 2)


def test_what_the_function_raises_is_raised_here(pool):
    with pytest.raises(ZeroDivisionError):
        call(pool, divmod, 17, 0)


def test_a_call_past_its_limit_is_killed_and_the_others_go_on(pool):
    async def together():
        return await asyncio.gather(
            pool.call(in_c, 9, limit_seconds=1.0),
            *(pool.call(sleep_and_return, 0.05, number, limit_seconds=20.0) for number in range(20)),
            return_exceptions=True,
        )

    endless, *others = asyncio.run(together())
    assert isinstance(endless, CallTimedOut)
    assert str(endless) == "1 s"
    assert others == list(range(20))


def test_a_process_that_dies_is_replaced(pool):
    with pytest.raises(CallCrashed, match="exit code 3"):
        call(pool, os._exit, 3)
    assert call(pool, divmod, 17, 5) == (3, 2)


def test_memory_is_limited(pool):
    with pytest.raises(MemoryError):
        call(pool, grow, 400)
    assert call(pool, grow, 50) == 50 << 20


def test_closing_ends_the_processes_even_at_work():
    pool = KillablePool(1)
    pid = call(pool, os.getpid)

    async def close_meanwhile():
        waiting = asyncio.ensure_future(pool.call(in_c, 9, limit_seconds=600.0))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(pool.close)
        return await asyncio.gather(waiting, return_exceptions=True)

    [outcome] = asyncio.run(close_meanwhile())
    assert isinstance(outcome, asyncio.CancelledError)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
