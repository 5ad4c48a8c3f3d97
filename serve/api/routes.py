"""The FastAPI application: OpenAI's endpoints, health, metrics, and the page."""

from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response

from serve.api import errors
from serve.api.exchange import Exchange
from serve.api.protection import Shield
from serve.api.replies import ChatCompletion, Completion
from serve.api.requests import ChatRequest, CompletionRequest
from serve.page import add_page
from serve.service import Service

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


def create_api(service: Service) -> FastAPI:
    """The application on a service."""
    app = FastAPI(
        title=TITLE, summary=SUMMARY, docs_url=None, redoc_url=None, redirect_slashes=False, responses=RESPONSES
    )
    errors.add_handlers(app)
    app.add_middleware(Shield, max_body_bytes=service.limits.max_body_bytes)

    async def caller(request: Request) -> str:
        return service.admission.caller(request)

    Caller = Annotated[str, Depends(caller)]

    @app.post("/v1/chat/completions", response_model=ChatCompletion, tags=["OpenAI"])
    async def chat(body: ChatRequest, request: Request, caller: Caller) -> Response:
        """Answer a conversation: by a vote, or with adaptive=false by plain generation."""
        return await Exchange(service, body, request, caller).answer()

    @app.post("/v1/completions", response_model=Completion, tags=["OpenAI"])
    async def complete(body: CompletionRequest, request: Request, caller: Caller) -> Response:
        """Continue a text: by a vote, or with adaptive=false by plain generation."""
        return await Exchange(service, body, request, caller).answer()

    @app.get("/v1/models", tags=["OpenAI"])
    async def models(caller: Caller) -> JSONResponse:
        """The students, with the lineage of each and of the ranker."""
        return JSONResponse({"object": "list", "data": [_model(service, name) for name in service.students]})

    @app.get("/v1/models/{name:path}", tags=["OpenAI"])
    async def model(name: str, caller: Caller) -> JSONResponse:
        """One student."""
        service.student(name)
        return JSONResponse(_model(service, name))

    @app.get("/healthz", tags=["Operation"])
    async def health() -> JSONResponse:
        """Whether replicas of the students run, and whether the ranker scores: status 503 if no student can answer."""
        facts = await service.health()
        ranker = None if service.ranker is None else service.ranker.facts
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


def _model(service: Service, name: str) -> dict[str, Any]:
    ranker = None if service.ranker is None else service.ranker.facts
    lineage = {"student": dict(service.students[name].lineage), "ranker": ranker}
    return {"id": name, "object": "model", "created": service.started_at, "owned_by": "sluice", "sluice": lineage}
