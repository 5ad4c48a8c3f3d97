"""A replica of a student: one engine, which draws single samples for the ingress."""

import asyncio
import functools
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from actors.engines.protocol import Engine, Piece, SampleRequest
from actors.errors import EngineDied, UserError
from algorithms.row_errors import RowError
from serve.logs import join_serve_logs
from serve.protocol import Refused, SampleFailed, ServeError, Unavailable
from serve.telemetry import StudentMetrics

logger = logging.getLogger(__name__)

TEXT_SECONDS: Final = 0.02  # between two pieces of a stream: more messages would not be read faster
PROGRESS_SECONDS: Final = 1.0  # between two reports of a sample that is voted on
PROMPT_FAULTS: Final = frozenset({"too_long", "empty_field", "refused"})

FailureKind: TypeAlias = Literal["refused", "failed", "unavailable"]
ERRORS: Final[dict[FailureKind, type[ServeError]]] = {
    "refused": Refused,
    "failed": SampleFailed,
    "unavailable": Unavailable,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a sample was not drawn. It travels as a value: an exception would drag Ray's own around it."""

    kind: FailureKind
    message: str

    def error(self) -> ServeError:
        """The failure as what the ingress raises."""
        return ERRORS[self.kind](self.message)


class StudentReplica:
    """Holds an engine. `make_engine` loads it here; `capacity` is the number of samples that it decodes at once."""

    def __init__(
        self, name: str, make_engine: Callable[[], Engine], capacity: int, end_process: Callable[[], None] | None = None
    ) -> None:
        join_serve_logs()
        self._engine = make_engine()
        self._capacity = capacity
        self._metrics = StudentMetrics(name)
        self._end_process = end_process or functools.partial(os._exit, 1)
        self._num_in_flight = 0

    async def draw(self, request: SampleRequest, with_text: bool) -> AsyncGenerator[Piece | Failure]:
        """The pieces of one sample, the last with the sample, or a failure. Ray Serve cancels it with its request."""
        started, text, num_tokens, outcome = time.monotonic(), "", 0, "cancelled"
        every_seconds = TEXT_SECONDS if with_text else PROGRESS_SECONDS
        sent_at = started
        self._enter(1)
        try:
            async with aclosing(self._engine.stream(request)) as pieces:
                async for piece in pieces:
                    text, num_tokens = text + piece.text if with_text else "", piece.num_tokens
                    now = time.monotonic()
                    if piece.sample is None and now - sent_at < every_seconds:
                        continue
                    if piece.sample is not None:
                        outcome = "finished"
                    yield Piece(text, num_tokens, piece.sample)
                    text, sent_at = "", now
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:  # noqa: BLE001  whatever an engine raises is an answer to this request
            outcome = "failed"
            yield self._failure(error)
        finally:
            self._enter(-1)
            self._metrics.drew(outcome, num_tokens, time.monotonic() - started)

    def load(self) -> dict[str, int | None]:
        """Samples that this replica draws, and those that the engine itself counts; None if it does not tell."""
        return {"in_flight": self._num_in_flight, "engine": getattr(self._engine, "num_unfinished", None)}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `serve.scaling` reads: how many samples this replica decodes at once."""
        return {"capacity": float(self._capacity)}

    def _enter(self, change: int) -> None:
        self._num_in_flight += change
        self._metrics.in_flight(self._num_in_flight)

    def _failure(self, error: Exception) -> Failure:
        """What the ingress is told. A client may read it: an endpoint's address and words stay in the log."""
        message = " ".join(str(error).split())[:300]
        if isinstance(error, RowError) and error.reason in PROMPT_FAULTS:
            return Failure("refused", message)
        if isinstance(error, EngineDied):
            logger.error("the engine is dead, and this replica ends: %s", message)
            self._end_process()  # the handle learns of it at once, and draws the sample elsewhere
            return Failure("unavailable", "the student's engine is dead")
        if isinstance(error, UserError):  # an endpoint that does not answer, or refuses access
            logger.error("the engine cannot answer: %s", message)
            return Failure("unavailable", "the student does not answer")
        if isinstance(error, ValueError) or type(error).__name__ == "TemplateError":
            return Failure("refused", f"the student's chat template takes no such conversation: {message}")
        logger.error("drawing a sample raised %s", error if isinstance(error, RowError) else type(error).__name__)
        return Failure("failed", "the student failed on this sample")


def describe_engine(engine: str, identity: dict[str, Any]) -> dict[str, Any]:
    """The lineage of a student, as /v1/models tells it. Paths of this machine stay here."""
    told = {"model", "architecture", "commit", "files", "dtype", "adapter"}
    return {"engine": engine, **{name: value for name, value in identity.items() if name in told}}
