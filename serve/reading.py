"""Reads and compares the answers of samples, in processes that are killed when a text keeps them too long."""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final, TypeVar

from actors.errors import CallFailed
from actors.processes import answers
from actors.processes.pool import KillablePool
from algorithms.answers.kinds import MATHEMATICAL
from serve.page import mathml

LIMIT_SECONDS: Final = 3.0
PAIR_SECONDS: Final = 0.5
LONGEST: Final = 200_000  # characters of a sample that are read: the end states the answer
INTEGER: Final = re.compile(r"-?[1-9]\d{0,17}|0")
NUM_REMEMBERED: Final = 1024

Result = TypeVar("Result")


class AnswerReader:
    """Texts in, answers out. `num_processes` work at once; a text past its limit states no answer."""

    def __init__(self, num_processes: int) -> None:
        self._pool = KillablePool(num_processes, answers.PRELOAD, answers.prepare)
        self._slow: OrderedDict[str, None] = OrderedDict()  # answers that no comparison ends with

    @cached_property
    def _page_pool(self) -> KillablePool:
        """A process for the page alone, so that its texts never keep a vote waiting."""
        return KillablePool(1, ("serve.page.mathml",))

    async def warm_up(self) -> None:
        """Start the processes: the first request should not wait for their imports."""
        await self.read("mathematics", None, "It is \\boxed{1}.")

    async def read(self, kind: str, argument: str | None, text: str) -> str | None:
        """The answer that a text states, None if it states none or nobody can read it."""
        try:
            return await self._call(answers.read_answer, kind, argument, text[-LONGEST:], seconds=LIMIT_SECONDS)
        except (CallFailed, MemoryError):
            return None

    async def equal_to(self, kind: str, answer: str, others: Sequence[str]) -> list[str]:
        """Those of the others that equal an answer. Of two whose comparison takes too long, only equal texts are equal.

        All are compared at once. If that exceeds its limit, each pair is compared alone, and an answer that is at fault
        is not compared again.
        """
        if answer in others:
            return [answer]
        left = [other for other in others if not (kind in MATHEMATICAL and _are_integers(answer, other))]
        left = [] if answer in self._slow else [other for other in left if other not in self._slow]
        if not left:
            return []
        try:
            return await self._call(answers.equal_answers, kind, answer, left, seconds=LIMIT_SECONDS)
        except (CallFailed, MemoryError):
            return await self._equal_one_by_one(kind, answer, left)

    async def render(self, text: str) -> str:
        """A text as HTML, its formulas as MathML; their source if converting takes too long."""
        try:
            return await self._page_pool.call(mathml.to_html, text, limit_seconds=LIMIT_SECONDS)
        except (CallFailed, MemoryError):
            return mathml.to_plain_html(text)

    async def close(self) -> None:
        """Kill the processes."""
        await asyncio.to_thread(self._pool.close)
        if "_page_pool" in self.__dict__:
            await asyncio.to_thread(self._page_pool.close)

    async def _equal_one_by_one(self, kind: str, answer: str, others: Sequence[str]) -> list[str]:
        equal, failures = [], []
        for other in others:
            try:
                equal += await self._call(answers.equal_answers, kind, answer, [other], seconds=PAIR_SECONDS)
            except (CallFailed, MemoryError):
                failures.append(other)
            if len(failures) > 1:  # the fault is in what these pairs have in common
                self._remember(answer)
                return equal
        for other in failures:
            self._remember(other)
        return equal

    def _remember(self, answer: str) -> None:
        self._slow[answer] = None
        if len(self._slow) > NUM_REMEMBERED:
            self._slow.popitem(last=False)

    async def _call(self, function: Callable[..., Result], *arguments: Any, seconds: float) -> Result:
        """The pool's result. A caller that is cancelled leaves the call to itself: cancelling it kills its process."""
        call = asyncio.ensure_future(self._pool.call(function, *arguments, limit_seconds=seconds))
        call.add_done_callback(_forget)
        return await asyncio.shield(call)


def _forget(call: asyncio.Future[Any]) -> None:
    """Look at an error that nobody waits for any more, so that asyncio does not report it."""
    if not call.cancelled():
        call.exception()


def _are_integers(one: str, other: str) -> bool:
    """Whether both are plain integers, of which different texts are different numbers: the usual case, at no cost."""
    return INTEGER.fullmatch(one) is not None and INTEGER.fullmatch(other) is not None
