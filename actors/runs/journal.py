"""Which rows were in flight when a process died: finds the row that kills processes.

Before a process works on a group of rows it writes a note with their ids, and it deletes the note when they are done. A
note that is left behind names the suspects. A suspect is tried again with nothing else in flight, in a group an eighth
of the size in which it last died. A row that died alone twice is convicted. One death convicts nobody, because
processes also die of preemption and of `kill -9`. Deaths in earlier sessions count less: over all sessions a row is
convicted after four lone deaths.
"""

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Final

from actors.runs.storage import Storage

SPLIT_FACTOR: Final = 8
LONE_DEATHS_IN_SESSION: Final = 2
LONE_DEATHS_IN_ALL: Final = 4


class Journal:
    """The notes of one run, in `folder`. Reads the notes that dead processes left behind."""

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
            except FileNotFoundError:  # a live process has just finished these rows
                continue
            ids = note["ids"]
            for row_id in ids:
                self._smallest_group[row_id] = min(len(ids), self._smallest_group.get(row_id, len(ids)))
            if len(ids) == 1:
                self._lone_deaths[ids[0]] += 1
                self._lone_deaths_in_session[ids[0]] += note["session"] == session

    def begin(self, ids: Sequence[str]) -> Storage:
        """Note that these rows are in flight. Returns the note."""
        note = self._folder / f"{uuid.uuid4().hex}.json"
        note.write_bytes(json.dumps({"session": self._session, "ids": list(ids)}).encode())
        return note

    def end(self, note: Storage) -> None:
        """Delete the note: its rows are done."""
        note.delete_file()

    def is_suspect(self, row_id: str) -> bool:
        """Whether the row was in flight when a process died."""
        return row_id in self._smallest_group

    def is_convicted(self, row_id: str) -> bool:
        """Whether this row kills processes."""
        return (
            self._lone_deaths_in_session[row_id] >= LONE_DEATHS_IN_SESSION
            or self._lone_deaths[row_id] >= LONE_DEATHS_IN_ALL
        )

    def groups(self, suspects: Sequence[str]) -> list[list[str]]:
        """The suspects in groups an eighth of the size of the smallest group that each died in."""
        groups: list[list[str]] = []
        sizes: list[int] = []
        for row_id in sorted(suspects, key=lambda suspect: self._smallest_group[suspect]):
            size = max(1, self._smallest_group[row_id] // SPLIT_FACTOR)
            if not groups or len(groups[-1]) >= sizes[-1] or sizes[-1] != size:
                groups.append([])
                sizes.append(size)
            groups[-1].append(row_id)
        return groups
