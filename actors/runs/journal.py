"""Which rows were in flight when a process died: finds the row that kills processes.

Before a process works on a group of rows it writes a note with their ids, and it deletes the note when they are
committed. A note that is left behind is a death of each of its rows. Processes also die of preemption and of
`kill -9`, so one death makes nobody a suspect: the row is simply worked on again. A row with two deaths is a suspect.
It is tried with nothing else in flight, in a group an eighth of the size of the smallest in which it died. A row that
died alone twice is convicted. Deaths in earlier sessions count less: over all sessions a row is convicted after four
lone deaths. Deaths with a whole node count half: a row can fill a machine's memory, but far more often the machine was
taken away.
"""

import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from actors.runs.storage import Storage

SPLIT_FACTOR: Final = 8
SUSPECT_DEATHS: Final = 2.0
LONE_DEATHS_IN_SESSION: Final = 2.0
LONE_DEATHS_IN_ALL: Final = 4.0
DEATH_WITH_NODE: Final = 0.5
READERS: Final = 16


@dataclass(frozen=True)
class Note:
    """A note in the journal: rows of one group, by shard, that a process on `node` works on."""

    file: Storage
    session: str
    node: str
    alone: bool  # nothing else was in flight
    ids: tuple[str, ...]
    shards: tuple[str, ...]  # of each id
    error: str | None = None  # what the process raised before it ended itself

    def with_error(self, error: str) -> "Note":
        """The note with the last words of its process."""
        return replace(self, error=error)

    def write(self) -> None:
        """Write the note, or write it anew."""
        values = {name: value for name, value in vars(self).items() if name != "file"}
        self.file.write_bytes(json.dumps(values).encode())


class Journal:
    """The notes of one run, in `folder`. Reads the notes that are there: those of dead processes, mostly."""

    def __init__(self, folder: Storage, session: str, node: str = "", dead_nodes: Collection[str] = ()) -> None:
        self._folder = folder
        self._session = session
        self._node = node
        self._deaths: defaultdict[str, float] = defaultdict(float)
        self._smallest_group: dict[str, int] = {}  # id -> rows in the smallest group it died in
        self._lone_deaths: defaultdict[str, float] = defaultdict(float)
        self._lone_deaths_in_session: defaultdict[str, float] = defaultdict(float)
        self._errors: dict[str, str] = {}
        for note in read_notes(folder):
            weight = DEATH_WITH_NODE if note.node in dead_nodes else 1.0
            for row_id in note.ids:
                self._deaths[row_id] += weight
                self._smallest_group[row_id] = min(len(note.ids), self._smallest_group.get(row_id, len(note.ids)))
            if note.alone and len(note.ids) == 1:
                [row_id] = note.ids
                self._lone_deaths[row_id] += weight
                self._lone_deaths_in_session[row_id] += weight if note.session == session else 0
                if note.error is not None:
                    self._errors[row_id] = note.error

    def begin(self, ids: Sequence[str], shards: Sequence[str] = (), alone: bool = False) -> Note:
        """Note that these rows are in flight."""
        file = self._folder / f"{uuid.uuid4().hex}.json"
        note = Note(file, self._session, self._node, alone, tuple(ids), tuple(shards))
        note.write()
        return note

    def end(self, note: Note) -> None:
        """Delete the note: its rows are committed."""
        note.file.delete_file()

    def is_suspect(self, row_id: str) -> bool:
        """Whether the row was in flight when processes died, more than once."""
        return self._deaths.get(row_id, 0) >= SUSPECT_DEATHS

    def is_convicted(self, row_id: str) -> bool:
        """Whether this row kills processes."""
        return (
            self._lone_deaths_in_session.get(row_id, 0) >= LONE_DEATHS_IN_SESSION
            or self._lone_deaths.get(row_id, 0) >= LONE_DEATHS_IN_ALL
        )

    def last_words(self, row_id: str) -> str | None:
        """What a process that died of this row alone had raised, if it could say."""
        return self._errors.get(row_id)

    def groups(self, suspects: Sequence[str], at_most: int) -> list[list[str]]:
        """The suspects in groups an eighth of the size of the smallest group that each died in, of `at_most` rows."""
        groups: list[list[str]] = []
        sizes: list[int] = []
        for row_id in sorted(suspects, key=lambda suspect: self._smallest_group[suspect]):
            size = min(at_most, max(1, self._smallest_group[row_id] // SPLIT_FACTOR))
            if not groups or len(groups[-1]) >= sizes[-1] or sizes[-1] != size:
                groups.append([])
                sizes.append(size)
            groups[-1].append(row_id)
        return groups


def read_notes(folder: Storage) -> list[Note]:
    """The notes in a folder. One that disappears meanwhile is of a process that lives."""
    files = [folder / info.base_name for info in folder.files() if info.path.endswith(".json")]
    with ThreadPoolExecutor(READERS) as pool:
        return [note for found in pool.map(_read, files) for note in found]


def _read(file: Storage) -> list[Note]:
    try:
        values = json.loads(file.read_bytes())
    except FileNotFoundError:
        return []
    return [Note(file, **values | {name: tuple(values[name]) for name in ("ids", "shards")})]


def drop_committed(folder: Storage, committed: Callable[[str], Collection[str]]) -> None:
    """Delete the notes whose rows are all committed. `committed` gives the committed ids of a shard.

    Only while no worker writes.
    """
    for note in read_notes(folder):
        if all(row_id in committed(shard) for row_id, shard in zip(note.ids, note.shards, strict=False)):
            note.file.delete_file()


def forgive(folder: Storage, session: str) -> None:
    """Delete the notes of a session that a person ended: its processes did not die of their rows."""
    for note in read_notes(folder):
        if note.session == session and note.error is None:
            note.file.delete_file()
