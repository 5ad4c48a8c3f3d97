"""Replies to the requests of a run, kept so that no request is paid for twice.

A reply lies in a file of its own, whose name is a digest of the request. So it is found again whichever path asks for
it, in whichever session. A file appears when it is whole, and two writers of one file write the same.
"""

import hashlib
import json
from typing import Any

from actors.runs.folder import RunFolder


class Replies:
    """The replies in a run's folder. A request is a frozen dataclass of texts and numbers; a reply is JSON."""

    def __init__(self, run: RunFolder) -> None:
        self._folder = run.replies

    def find(self, request: Any) -> Any:
        """The reply to a request, or None if there is none yet."""
        file = self._folder / _name(request)
        return json.loads(file.read_bytes()) if file.exists() else None

    def save(self, request: Any, reply: Any) -> None:
        """Keep a reply."""
        (self._folder / _name(request)).write_bytes(json.dumps(reply).encode())


def _name(request: Any) -> str:
    return hashlib.blake2b(repr(request).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest() + ".json"
