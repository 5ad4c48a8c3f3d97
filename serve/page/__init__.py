"""The page at /, the API description at /docs, and their files. Nothing comes from elsewhere, and nothing is inline.

    routes       the paths, and which files they hand out
    mathml       a text with LaTeX as safe HTML with MathML
    index.html   the page: a question, its samples, the votes, the answer
    page.js      the form: asks, stops, and keeps the API key for the session
    stream.js    requests, server-sent events, and errors in plain words
    view.js      draws samples, votes, answer and rationale
    docs.html    the API description
    docs.js      draws it from /openapi.json
    page.css     the style of both, dark and light
    favicon.svg  the icon

To add a file, list it in `routes.FILES`; its kind ships with the package by `package-data` in pyproject.toml.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from serve.service import Service


def add_page(app: "FastAPI", service: "Service") -> None:
    """Add the page to an application."""
    from serve.page import routes  # here, because `mathml` runs in processes that import neither FastAPI nor Ray

    routes.add_routes(app, service)
