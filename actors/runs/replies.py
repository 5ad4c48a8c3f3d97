"""Replies to the requests of a run, kept so that no request is paid for twice.

A reply lies in a file of its own, whose name is a digest of the request. So it is found again whichever path asks for
it, in whichever session. A file appears when it is whole, and two writers of one file write the same.
"""

import hashlib
import json
from typing import Any

from actors.runs.folder import RunFolder
from actors.runs.storage import Storage


class Replies:
    """The replies in a run's folder. A request is a frozen dataclass of texts and numbers, or a tuple of such things; a
    reply is JSON.
    """

    def __init__(self, run: RunFolder) -> None:
        self._folder = run.replies

    def find(self, request: Any) -> Any:
        """The reply to a request, or None if there is none yet."""
        file = self._file(request)
        return json.loads(file.read_bytes()) if file.exists() else None

    def save(self, request: Any, reply: Any) -> None:
        """Keep a reply."""
        self._file(request).write_bytes(json.dumps(reply).encode())

    def _file(self, request: Any) -> Storage:
        """Millions of files go into 256 folders."""
        name = hashlib.blake2b(repr(request).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
        return self._folder / name[:2] / f"{name}.json"
