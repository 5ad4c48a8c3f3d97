"""Which rows were in flight when a process died: finds the row that kills processes.

Before a process touches a group of rows it writes their ids here; when they are done it takes the note
away. A note that is left behind names the suspects. A suspect is tried again with nothing else in flight,
in a group an eighth as large as the one it was last seen dying in; a row that died twice all alone is the
culprit. One death convicts nobody: processes also die of preemption, and of other people's `kill -9`. When a
whole session died the row is blamed less: it takes twice as many lone deaths over all sessions.
"""

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Final

from actors.storage import Storage

SPLIT_FACTOR: Final = 8
LONE_DEATHS_IN_SESSION: Final = 2
LONE_DEATHS_IN_ALL: Final = 4


class Journal:
    """The notes of one run, under `folder`. Reads at the start what dead processes left behind."""

    def __init__(self, folder: Storage, session: str) -> None:
        self._folder = folder
        self._session = session
        self._smallest_group: dict[str, int] = {}  # id -> rows in the smallest group it died in
        self._lone_deaths: Counter[str] = Counter()
        self._lone_deaths_in_session: Counter[str] = Counter()
        for info in folder.files():
            if not info.path.endswith(".json"):
                continue
            try:
                note = json.loads(Storage(folder.filesystem, info.path).read_bytes())
            except FileNotFoundError:  # a process that is alive has just finished these rows
                continue
            ids = note["ids"]
            for row_id in ids:
                self._smallest_group[row_id] = min(len(ids), self._smallest_group.get(row_id, len(ids)))
            if len(ids) == 1:
                self._lone_deaths[ids[0]] += 1
                self._lone_deaths_in_session[ids[0]] += note["session"] == session

    def begin(self, ids: Sequence[str]) -> Storage:
        """Note that these rows are in flight from now on."""
        note = self._folder / f"{uuid.uuid4().hex}.json"
        note.write_bytes(json.dumps({"session": self._session, "ids": list(ids)}).encode())
        return note

    def end(self, note: Storage) -> None:
        """Note that they are done."""
        note.delete_file()

    def is_suspect(self, row_id: str) -> bool:
        """Whether the row was in flight when a process died."""
        return row_id in self._smallest_group

    def is_convicted(self, row_id: str) -> bool:
        """Whether processes die of this row."""
        return (
            self._lone_deaths_in_session[row_id] >= LONE_DEATHS_IN_SESSION
            or self._lone_deaths[row_id] >= LONE_DEATHS_IN_ALL
        )

    def groups(self, suspects: Sequence[str]) -> list[list[str]]:
        """The suspects in groups small enough to tell more than their last death did."""
        groups: list[list[str]] = []
        sizes: list[int] = []
        for row_id in sorted(suspects, key=lambda suspect: self._smallest_group[suspect]):
            size = max(1, self._smallest_group[row_id] // SPLIT_FACTOR)
            if not groups or len(groups[-1]) >= sizes[-1] or sizes[-1] != size:
                groups.append([])
                sizes.append(size)
            groups[-1].append(row_id)
        return groups
