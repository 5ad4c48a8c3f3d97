"""The FastAPI application: OpenAI's endpoints, health, metrics, and the page."""

import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve.api import errors, replies
from serve.api.errors import ApiError
from serve.api.protection import Shield
from serve.api.replies import Answered, ChatCompletion, Completion, Shape
from serve.api.requests import ChatRequest, CompletionRequest
from serve.page import add_page
from serve.protocol import ServeError
from serve.service import Service
from serve.solver import Progress

TITLE: Final = "Sluice"
SUMMARY: Final = "An OpenAI-compatible endpoint that votes: adaptive self-consistency over a student and a ranker."
OPENAI_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
MEANINGS: Final = {
    400: "The request cannot be answered as it is.",
    401: "The API key is missing or not known.",
    404: "There is no such model.",
    405: "The path has no such method.",
    413: "The body is too large.",
    429: "All places are taken: try again after Retry-After seconds.",
    500: "A defect of the server.",
    502: "No sample could be drawn.",
    503: "The student does not answer: try again after Retry-After seconds.",
    504: "The deadline came before any sample was finished.",
}
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": meaning, "content": {"application/json": {"schema": OPENAI_ERROR}}}
    for status, meaning in MEANINGS.items()
}

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


def create_api(service: Service) -> FastAPI:
    """The application on a service."""
    app = FastAPI(title=TITLE, summary=SUMMARY, docs_url=None, redoc_url=None, responses=RESPONSES)
    errors.add_handlers(app)
    app.add_middleware(Shield, max_body_bytes=service.limits.max_body_bytes)

    async def caller(request: Request) -> str:
        return service.admission.caller(request)

    Caller = Annotated[str, Depends(caller)]

    @app.post("/v1/chat/completions", response_model=ChatCompletion, tags=["OpenAI"])
    async def chat(body: ChatRequest, request: Request, caller: Caller) -> Response:
        """Answer a conversation: by a vote, or with adaptive=false by plain generation."""
        return await _answer(service, body, request, caller)

    @app.post("/v1/completions", response_model=Completion, tags=["OpenAI"])
    async def complete(body: CompletionRequest, request: Request, caller: Caller) -> Response:
        """Continue a text: by a vote, or with adaptive=false by plain generation."""
        return await _answer(service, body, request, caller)

    @app.get("/v1/models", tags=["OpenAI"])
    async def models(caller: Caller) -> JSONResponse:
        """The students, with the lineage of each and of the ranker."""
        ranker = await _ranker(service)
        return JSONResponse({"object": "list", "data": [_model(service, name, ranker) for name in service.students]})

    @app.get("/v1/models/{name:path}", tags=["OpenAI"])
    async def model(name: str, caller: Caller) -> JSONResponse:
        """One student."""
        service.student(name)
        return JSONResponse(_model(service, name, await _ranker(service)))

    @app.get("/healthz", tags=["Operation"])
    async def health() -> JSONResponse:
        """Whether students answer, and whether the ranker does: status 503 if no student can."""
        facts = await service.health()
        ranker = await _ranker(service)
        if facts["status"] == "ok" and ranker is not None and ranker.get("problem"):
            facts["status"] = "degraded"
        facts |= {"ranker": ranker, "requests_in_flight": service.admission.num_in_flight}
        return JSONResponse(facts, 503 if facts["status"] == "down" else 200)

    @app.get("/metrics", tags=["Operation"], response_class=PlainTextResponse)
    async def metrics(caller: Caller) -> PlainTextResponse:
        """The metrics of all replicas on all nodes, for Prometheus."""
        return PlainTextResponse(await service.metrics_text(), media_type="text/plain; version=0.0.4")

    add_page(app, service)
    return app


async def _answer(service: Service, body: ChatRequest | CompletionRequest, request: Request, caller: str) -> Response:
    """Answer a request, whole or as a stream. Errors before the first event get their own status."""
    shape = Shape(body.model, is_chat=isinstance(body, ChatRequest))
    kind = "vote" if body.is_vote else "plain"
    facts: dict[str, Any] = {"caller": caller, "model": body.model, "kind": kind}
    request.state.facts = facts
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        status, answered = 499, None  # the client went away

        def ended() -> None:
            tokens = answered.num_tokens if answered is not None else 0
            service.metrics.answered(_known(service, body.model), kind, status, time.monotonic() - began, tokens)
            _log(service, facts, body, answered)

        stack.callback(ended)
        try:
            service.student(body.model)
            stack.enter_context(service.admission.admitted(caller))
            events: AsyncGenerator[Any] = service.vote(body) if body.is_vote else service.plain(body)
            await stack.enter_async_context(aclosing(events))
            event = await anext(events)
            if not body.stream:
                while not isinstance(event, Answered):
                    event = await anext(events)
                answered, status = event, 200
                return JSONResponse(shape.whole(event).model_dump(exclude_unset=False))
        except ServeError as error:
            told = errors.from_serving(error)
            status = told.status
            raise told from None
        except ApiError as error:
            status = error.status
            raise

        async def lines() -> AsyncGenerator[str]:
            nonlocal status, answered
            status = 200
            opened: set[int] = set()
            following = event
            try:
                while True:
                    if isinstance(following, Answered):
                        answered = following
                        for line in _last_lines(shape, body, following, opened):
                            yield line
                        return
                    if isinstance(following, Progress):
                        yield replies.progress_comment(following)
                    else:
                        index, text = following
                        if index not in opened:
                            opened.add(index)
                            yield shape.opening(index)
                        yield shape.piece(index, text)
                    following = await anext(events)
            except ServeError as error:
                told = errors.from_serving(error)
                status = told.status
                yield replies.error_event(told.body)

        return EventStream(lines(), stack.pop_all())


def _last_lines(
    shape: Shape, body: ChatRequest | CompletionRequest, answered: Answered, opened: set[int]
) -> Iterator[str]:
    """The end of a stream: what was not sent yet, why each choice ended, the usage."""
    for index, sample in enumerate(answered.samples):
        if index not in opened:
            yield shape.opening(index)
        if body.is_vote:
            for piece in replies.pieces_of(sample.text):
                yield shape.piece(index, piece)
        yield shape.closing(index, sample, answered.report)
    if body.stream_options is not None and body.stream_options.include_usage:
        yield shape.usage(answered)
    yield replies.DONE


def _known(service: Service, model: str) -> str:
    """A model's name as a label of metrics: those that clients make up would fill the registry."""
    return model if model in service.students else "unknown"


def _log(service: Service, facts: dict[str, Any], body: Any, answered: Answered | None) -> None:
    """Note what a request came to; its content only if the operator asked for it."""
    if answered is not None:
        facts["tokens"] = answered.num_tokens
        if answered.report is not None:
            facts |= {"samples": answered.report.samples.used, "stop_reason": answered.report.stop_reason}
    if service.log_requests:
        content = {"request": body.model_dump(exclude_unset=True), "answers": []}
        if answered is not None:
            content["answers"] = [sample.text for sample in answered.samples]
        logger.info("%s", json.dumps(content))


async def _ranker(service: Service) -> dict[str, Any] | None:
    return None if service.ranker is None else await service.ranker.describe()


def _model(service: Service, name: str, ranker: dict[str, Any] | None) -> dict[str, Any]:
    lineage = {"student": dict(service.students[name].lineage), "ranker": ranker}
    return {"id": name, "object": "model", "created": service.started_at, "owned_by": "sluice", "sluice": lineage}
