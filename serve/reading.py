"""Reads and compares the answers of samples, in processes that are killed when a text keeps them too long."""

import asyncio
import re
from collections.abc import Sequence
from typing import Final

from actors.errors import CallFailed
from actors.processes import answers
from actors.processes.pool import KillablePool
from algorithms.answers.kinds import MATHEMATICAL
from serve.page import mathml

PRELOAD: Final = (*answers.PRELOAD, "serve.page.mathml")
LIMIT_SECONDS: Final = 3.0
LONGEST: Final = 200_000  # characters of a sample that are read: the end states the answer
INTEGER: Final = re.compile(r"-?[1-9]\d{0,17}|0")


class AnswerReader:
    """Texts in, answers out. `num_processes` work at once; a text past its limit states no answer."""

    def __init__(self, num_processes: int) -> None:
        self._pool = KillablePool(num_processes, PRELOAD, answers.prepare)

    async def warm_up(self) -> None:
        """Start the processes: the first request should not wait for their imports."""
        await self.read("mathematics", None, "It is \\boxed{1}.")

    async def read(self, kind: str, argument: str | None, text: str) -> str | None:
        """The answer that a text states, None if it states none or nobody can read it."""
        try:
            return await self._pool.call(
                answers.read_answer, kind, argument, text[-LONGEST:], limit_seconds=LIMIT_SECONDS
            )
        except (CallFailed, MemoryError):
            return None

    async def equal_to(self, kind: str, answer: str, others: Sequence[str]) -> list[str]:
        """Those of the others that equal an answer; only the same text if comparing takes too long."""
        if answer in others:
            return [answer]
        left = [other for other in others if not (kind in MATHEMATICAL and _are_integers(answer, other))]
        if not left:
            return []
        try:
            return await self._pool.call(answers.equal_answers, kind, answer, left, limit_seconds=LIMIT_SECONDS)
        except (CallFailed, MemoryError):
            return []

    async def render(self, text: str) -> str:
        """A text as HTML, its formulas as MathML; their source if converting takes too long."""
        try:
            return await self._pool.call(mathml.to_html, text, limit_seconds=LIMIT_SECONDS)
        except (CallFailed, MemoryError):
            return mathml.to_plain_html(text)

    async def close(self) -> None:
        """Kill the processes."""
        await asyncio.to_thread(self._pool.close)


def _are_integers(one: str, other: str) -> bool:
    """Whether both are plain integers, of which different texts are different numbers: the usual case, at no cost."""
    return INTEGER.fullmatch(one) is not None and INTEGER.fullmatch(other) is not None
