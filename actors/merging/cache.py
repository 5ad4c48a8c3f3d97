"""Replies of a merger on the run's storage, by content.

A row that is at work when its process dies is refined again, and would ask a paid endpoint for the same merges again.
One small file a reply: it is there as soon as the reply is, on any storage, whichever process asks next. The folder
goes with the run's other temporary ones when the run is finished.
"""

import asyncio
import hashlib
import json
from dataclasses import asdict

from actors.runs.storage import Storage
from algorithms.refinement.requests import MergeRequest


class MergeCache:
    """The replies of one merger, whose `identity` names its model and prompt."""

    def __init__(self, folder: Storage, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    async def get(self, request: MergeRequest) -> str | None:
        """The reply to an equal request, if there was one."""
        return await asyncio.to_thread(self._read, request)

    async def put(self, request: MergeRequest, reply: str) -> None:
        """Keep a reply."""
        await asyncio.to_thread(self._file(request).write_bytes, json.dumps({"reply": reply}).encode())

    def _read(self, request: MergeRequest) -> str | None:
        file = self._file(request)
        if not file.exists():
            return None
        return str(json.loads(file.read_bytes())["reply"])

    def _file(self, request: MergeRequest) -> Storage:
        content = json.dumps([self._identity, asdict(request)], sort_keys=True)
        name = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return self._folder / name[:2] / f"{name}.json"
