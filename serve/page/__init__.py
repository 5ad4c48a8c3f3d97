"""The page at /: placeholder until the page lands."""

from fastapi import FastAPI


def add_page(app: FastAPI, service: object) -> None:
    """Nothing yet."""
