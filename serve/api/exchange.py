"""One request on its way to its reply, whole or as a stream of server-sent events."""

import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final, TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.api import errors, replies
from serve.api.errors import ApiError
from serve.api.replies import Answered, Shape
from serve.api.requests import ChatRequest, CompletionRequest
from serve.protocol import ServeError
from serve.service import Service
from serve.solver import Progress

CLIENT_LEFT: Final = 499  # as web servers log it

Events: TypeAlias = AsyncGenerator[Any]

logger = logging.getLogger("sluice.requests")


class EventStream(StreamingResponse):
    """A stream of server-sent events, which gives back what it holds however it ends."""

    def __init__(self, events: AsyncIterator[str], held: AsyncExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        async with self._held:
            await super().__call__(scope, receive, send)


class Exchange:
    """Answers one request. When it ends, however it ends, what it came to is measured and logged."""

    def __init__(self, service: Service, body: ChatRequest | CompletionRequest, request: Request, caller: str) -> None:
        self._service = service
        self._body = body
        self._caller = caller
        self._shape = Shape(body.model, is_chat=isinstance(body, ChatRequest))
        self._kind = "vote" if body.is_vote else "plain"
        self._facts: dict[str, Any] = {"caller": caller, "model": body.model, "kind": self._kind}
        request.state.facts = self._facts  # for the line in the access log
        self._began = time.monotonic()
        self._status = CLIENT_LEFT
        self._answered: Answered | None = None

    async def answer(self) -> Response:
        """The reply. Raises ApiError for what fails before the first event of a stream."""
        async with AsyncExitStack() as held:
            held.callback(self._end)
            try:
                self._service.student(self._body.model)
                held.enter_context(self._service.admission.admitted(self._caller))
                events: Events = (
                    self._service.vote(self._body) if self._body.is_vote else self._service.plain(self._body)
                )
                await held.enter_async_context(aclosing(events))
                first = await anext(events)
                if not self._body.stream:
                    return await self._whole(first, events)
            except ServeError as error:
                told = errors.from_serving(error)
                self._status = told.status
                raise told from None
            except ApiError as error:
                self._status = error.status
                raise
            except Exception:
                self._status = 500
                raise
            return EventStream(self._lines(first, events), held.pop_all())

    async def _whole(self, event: Any, events: Events) -> Response:
        while not isinstance(event, Answered):
            event = await anext(events)
        self._answered, self._status = event, 200
        return JSONResponse(self._shape.whole(event).model_dump())

    async def _lines(self, event: Any, events: Events) -> AsyncGenerator[str]:
        """The events of the stream. An error now is an event too: the status was sent already."""
        opened: set[int] = set()
        try:
            while not isinstance(event, Answered):
                if isinstance(event, Progress):
                    yield replies.progress_comment(event)
                else:
                    index, text = event
                    yield self._opening(index, opened) + self._shape.piece(index, text)
                event = await anext(events)
            self._answered = event
            for line in self._last_lines(event, opened):
                yield line
            self._status = 200
        except ServeError as error:
            told = errors.from_serving(error)
            self._status = told.status
            yield replies.event(told.body)
        except Exception:
            self._status = 500
            logger.exception("a stream raised")
            yield replies.event(ApiError(500, "internal error in the middle of the answer").body)

    def _opening(self, index: int, opened: set[int]) -> str:
        """The first chunk of a choice, once."""
        if index in opened:
            return ""
        opened.add(index)
        return self._shape.opening(index)

    def _last_lines(self, answered: Answered, opened: set[int]) -> Iterator[str]:
        """The end of a stream: what was not sent yet, why each choice ended, the usage."""
        for index, sample in enumerate(answered.samples):
            pieces = replies.pieces_of(sample.text) if self._body.is_vote else ()
            yield self._opening(index, opened) + "".join(self._shape.piece(index, piece) for piece in pieces)
            yield self._shape.closing(index, sample, answered.report)
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            yield self._shape.usage(answered)
        yield replies.DONE

    def _end(self) -> None:
        """Measure and log what the request came to; its content only if the operator asked for it."""
        service, answered = self._service, self._answered
        # Names that clients make up would fill the registry.
        model = self._body.model if self._body.model in service.students else "unknown"
        tokens = 0 if answered is None else answered.num_tokens
        service.metrics.answered(model, self._kind, self._status, time.monotonic() - self._began, tokens)
        if answered is not None:
            self._facts["tokens"] = tokens
            if answered.report is not None:
                report = answered.report
                self._facts |= {"samples": report.samples.used, "stop_reason": report.stop_reason}
        if service.log_requests:
            texts = [] if answered is None else [sample.text for sample in answered.samples]
            logger.info("%s", json.dumps({"request": self._body.model_dump(exclude_unset=True), "answers": texts}))
