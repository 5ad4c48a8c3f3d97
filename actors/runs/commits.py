"""What was committed when: a log beside the record files, so that nobody has to read their footers or list them often.

A worker announces its files in the log before it writes them. So a file without an entry does not exist, and an entry
without a file is of a worker that died in between. Each worker process writes logs of its own, `LINES_PER_LOG` lines
each. At the end of a run one file holds all lines.
"""

import json
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from actors.runs.storage import Storage
from actors.runs.totals import Totals

LINES_PER_LOG: Final = 100
READERS: Final = 32


@dataclass(frozen=True)
class Commit:
    """One file of records: its name below the folder of committed files, when it was written, and its totals."""

    file: str
    committed_at: float
    totals: Totals

    def line(self) -> str:
        """As a line of a log."""
        return json.dumps({"file": self.file, "committed_at": self.committed_at, **self.totals.as_dict()}) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> "Commit":
        """The inverse of `line`."""
        values: dict[str, Any] = json.loads(line)
        return cls(values["file"], values["committed_at"], Totals.from_dict(values))


class CommitWriter:
    """The logs of one worker process, in `folder`. The first, empty one says that the process is there."""

    def __init__(self, folder: Storage, session: str) -> None:
        self._folder = folder
        self._prefix = f"{session}-{uuid.uuid4().hex[:12]}"
        self._number = 0
        self._lines: list[str] = []
        self._write()

    def announce(self, commits: Iterable[Commit]) -> None:
        """Add entries for files that are about to be written."""
        if len(self._lines) >= LINES_PER_LOG:
            self._number, self._lines = self._number + 1, []
        self._lines += [commit.line() for commit in commits]
        self._write()

    def _write(self) -> None:
        log = self._folder / f"{self._prefix}-{self._number:05d}.jsonl"
        log.write_bytes("".join(self._lines).encode())


@dataclass(frozen=True)
class _Log:
    """One log as it was read: its size and time, its entries, and their sum."""

    version: tuple[int | None, int | None]
    commits: list[Commit]
    totals: Totals


@dataclass
class CommitReader:
    """All logs in `folder`. Reads a log again only when it has changed."""

    folder: Storage
    _logs: dict[str, _Log] = field(default_factory=dict)

    def commits(self) -> list[Commit]:
        """All entries, each file once, oldest first."""
        self._refresh()
        by_file = {commit.file: commit for log in self._logs.values() for commit in log.commits}
        return sorted(by_file.values(), key=lambda commit: commit.committed_at)

    def totals(self) -> Totals:
        """Sums over all entries. Costs little for each log that has not changed."""
        self._refresh()
        return Totals.over(log.totals for log in self._logs.values())

    def _refresh(self) -> None:
        infos = {info.base_name: info for info in self.folder.files() if info.path.endswith(".jsonl")}
        versions = {name: (info.size, info.mtime_ns) for name, info in infos.items()}
        changed = [name for name, log in versions.items() if name not in self._logs or self._logs[name].version != log]
        with ThreadPoolExecutor(READERS) as pool:
            read = list(pool.map(self._read, changed))
        for name, found in zip(changed, read, strict=True):
            self._logs[name] = _Log(versions[name], found, Totals.over(commit.totals for commit in found))
        for name in self._logs.keys() - versions.keys():
            del self._logs[name]

    def num_workers(self, session: str) -> int:
        """Worker processes that a session has started so far, as of the last call of `totals` or `commits`."""
        return len({name.rsplit("-", 1)[0] for name in self._logs if name.startswith(f"{session}-")})

    def replace(self, commits: Iterable[Commit], name: str) -> None:
        """Write one log with these entries in the place of all others. Only while no worker writes."""
        old = self.folder.files()
        (self.folder / f"{name}-all.jsonl").write_bytes("".join(commit.line() for commit in commits).encode())
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(lambda info: (self.folder / info.base_name).delete_file(), old))

    def _read(self, name: str) -> list[Commit]:
        try:
            lines = (self.folder / name).read_bytes().splitlines()
        except FileNotFoundError:  # replaced meanwhile
            return []
        return [Commit.from_line(line) for line in lines]
