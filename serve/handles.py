"""Students and the ranker behind Ray Serve's handles: routing, cancelling, and a second try when a replica dies."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from actors.engines.protocol import Piece, SampleRequest
from algorithms.answers.kinds import MATHEMATICAL
from algorithms.ranking.solutions import Solution
from serve.protocol import Busy, SampleFailed, Score, ServeError, Unavailable
from serve.student import Failure

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 3  # of a sample whose replica dies: a prompt that kills engines must not kill them all
WAIT_SECONDS: Final = 0.5  # before the next one; the router learns of a death within that time
LEARN_SECONDS: Final = 5.0
RANKER_SECONDS: Final = 10.0  # a vote does not wait longer for a score
LOST: Final = (  # a replica died, or Ray Serve takes it down
    RayActorError,
    DeploymentUnavailableError,
    TaskCancelledError,
    RequestCancelledError,
)


class _Lost(Exception):
    """The replica that drew a sample is lost."""


class StudentHandle:
    """A student whose replicas run anywhere in the cluster."""

    def __init__(self, name: str, handle: DeploymentHandle[Any]) -> None:
        self._name = name
        self._handle = handle.options(method_name="draw", stream=True)

    async def draw(self, request: SampleRequest, prompt_key: str, *, with_text: bool) -> AsyncGenerator[Piece]:
        """The pieces of one sample. If its replica dies, another one draws it anew, unless text was handed out."""
        for attempt in range(ATTEMPTS):
            has_sent = False
            try:
                async with aclosing(self._attempt(request, prompt_key, with_text)) as pieces:
                    async for piece in pieces:
                        yield piece
                        has_sent = has_sent or bool(piece.text)
                return
            except _Lost as error:
                logger.warning("a replica of %s is lost: %s", self._name, error)
                if has_sent:
                    raise Unavailable("the student's replica was lost in the middle of its answer") from None
            await asyncio.sleep(WAIT_SECONDS * (attempt + 1))
        raise Unavailable(f"the student {self._name} lost {ATTEMPTS} replicas in a row")

    async def _attempt(self, request: SampleRequest, prompt_key: str, with_text: bool) -> AsyncGenerator[Piece]:
        try:
            replies: Any = self._handle.options(session_id=prompt_key).remote(request, with_text)
        except BackPressureError:
            raise Busy(f"the queue of the student {self._name} is full") from None
        is_over = False
        try:
            async for reply in replies:
                if isinstance(reply, Failure):
                    raise reply.error()
                is_over = reply.sample is not None
                yield reply
            is_over = True
        except BackPressureError:
            is_over = True
            raise Busy(f"the queue of the student {self._name} is full") from None
        except ServeError:
            is_over = True
            raise
        except LOST as error:
            is_over = True
            raise _Lost(type(error).__name__) from None
        except RayTaskError as error:
            is_over = True
            raise SampleFailed(f"the student {self._name} raised {type(error.cause).__name__}") from None
        finally:
            if not is_over:
                replies.cancel()


class RankerHandle:
    """A ranker whose replicas run anywhere in the cluster. What goes wrong there costs scores, never an answer."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._score = handle.options(method_name="score")
        self._describe = handle.options(method_name="describe")
        self.facts: dict[str, Any] = {}

    async def score(self, solution: Solution, kind: str) -> Score:
        """The score of a solution, or why there is none."""
        score = await self._asked(solution, kind)
        if kind in MATHEMATICAL:  # other kinds say what the ranker is not for
            self.facts["problem"] = score.problem
        return score

    async def _asked(self, solution: Solution, kind: str) -> Score:
        for attempt in range(2):
            try:
                score: Score = await asyncio.wait_for(_result(self._score.remote(solution, kind)), RANKER_SECONDS)
                return score
            except TimeoutError:
                return Score(None, f"the ranker did not answer within {RANKER_SECONDS:g} s")
            except BackPressureError:
                return Score(None, "the ranker's queue is full")
            except LOST as error:
                logger.warning("a replica of the ranker is lost: %s", type(error).__name__)
                await asyncio.sleep(WAIT_SECONDS * attempt)
            except RayTaskError as error:
                return Score(None, f"the ranker raised {type(error.cause).__name__}")
        return Score(None, "the ranker's replicas are lost")

    async def learn(self) -> None:
        """Ask a replica once what the ranker is, however long it takes to start."""
        while True:
            try:
                self.facts = {**await _result(self._describe.remote()), **self.facts}
                return
            except (BackPressureError, RayTaskError, *LOST) as error:
                logger.warning("the ranker does not tell what it is: %s", type(error).__name__)
                await asyncio.sleep(LEARN_SECONDS)


async def _result(response: Any) -> Any:
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
