"""The paths of the page. The files are an explicit list: no path of a request ever reaches the file system."""

import asyncio
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated, Final

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from algorithms.voting.stopping import Beta, BetaWeighted
from serve.service import Service

FOLDER: Final = Path(__file__).parent
FILES: Final = {
    "page.js": "text/javascript",
    "stream.js": "text/javascript",
    "view.js": "text/javascript",
    "docs.js": "text/javascript",
    "page.css": "text/css",
    "favicon.svg": "image/svg+xml",
}
LONGEST: Final = 20_000  # characters of a text with formulas
FRESH: Final = {"Cache-Control": "no-cache"}


class RenderRequest(BaseModel):
    """The body of /page/render."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    text: Annotated[str, Field(max_length=LONGEST)]
    r"""A text with formulas between $, $$, \( \) or \[ \], or in \boxed."""


class RenderReply(BaseModel):
    """The reply of /page/render."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    html: str
    """The text, escaped; its formulas as MathML."""


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the page's paths to an application."""
    files = {name: (FOLDER / name).read_bytes() for name in FILES}
    index = _index(service)
    docs = (FOLDER / "docs.html").read_text(encoding="utf-8")
    one_at_a_time = asyncio.Semaphore(1)  # the processes are there for the answers of samples first

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        """The page."""
        return HTMLResponse(index, headers=FRESH)

    @app.get("/docs", include_in_schema=False)
    async def description() -> HTMLResponse:
        """The API description."""
        return HTMLResponse(docs, headers=FRESH)

    @app.get("/page/{file}", include_in_schema=False)
    async def file(file: str) -> Response:
        """A file of the page."""
        if file not in files:
            raise HTTPException(404, "the page has no such file")
        return Response(files[file], media_type=FILES[file], headers=FRESH)

    @app.post("/page/render", tags=["Page"], response_model=RenderReply)
    async def render(body: RenderRequest, request: Request) -> RenderReply:
        """Turn a text with LaTeX into safe HTML with MathML."""
        caller = service.admission.caller(request)
        with service.admission.admitted(caller):
            async with one_at_a_time:
                return RenderReply(html=await service.reader.render(body.text))


def _index(service: Service) -> str:
    """The page, which names the server's defaults where a field may stay empty."""
    policies = service.policies
    rule = (policies.counted if service.ranker is None else policies.scored).rule
    is_confidence = isinstance(rule, Beta | BetaWeighted)
    facts = {
        "max_samples": str(service.adaptive.max_samples),
        "most_samples": str(service.limits.max_samples),
        "confidence": f"{rule.threshold:g}" if is_confidence else "learned rule",
    }
    template = Template((FOLDER / "index.html").read_text(encoding="utf-8"))
    return template.substitute({name: escape(value) for name, value in facts.items()})
