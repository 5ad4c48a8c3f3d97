"""Logs: everything that this code logs in a replica goes where Ray Serve writes its own, in the same format."""

import logging
from typing import Final

PACKAGES: Final = ("sluice", "serve", "actors", "algorithms")


def join_serve_logs() -> None:
    """Give our loggers the handlers of Ray Serve's. Its `logging_config` then decides level, place and encoding."""
    of_serve = logging.getLogger("ray.serve")
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(of_serve.level or logging.INFO)
        logger.propagate = False
        for handler in of_serve.handlers:
            if handler not in logger.handlers:
                logger.addHandler(handler)
