"""Progress of a run: a live line on a terminal, otherwise one line a minute."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from actors.errors import StorageLost
from actors.runs.folder import RunFolder
from actors.runs.records import RecordStore
from actors.runs.totals import Totals
from jobs.driver import cluster
from jobs.driver.inputs import RowCount
from jobs.reports.parts import clock

POLL_SECONDS: Final = 2.0
LOG_EVERY_SECONDS: Final = 60
CHECK_EVERY_SECONDS: Final = 30
STANDSTILL_SECONDS: Final = 300  # without a commit: a slow model, or other jobs that hold what this one needs
PROBE_BYTES: Final = 1 << 20  # about what a commit writes: a full disk still takes small files


class Progress:
    """A context that shows `line()` from a thread of its own, and now and then what `complaint()` returns."""

    def __init__(self, line: Callable[[], str], complaint: Callable[[], str | None] = lambda: None) -> None:
        self._told = ""
        self._line = line
        self._complaint = complaint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        console = Console(stderr=True)
        if not console.is_terminal:
            self._log()
            return
        with Live(console=console, transient=True, auto_refresh=False) as live:
            checked = time.monotonic()
            while True:
                live.update(Text(self._now(), no_wrap=True, overflow="ellipsis"), refresh=True)
                if self._stop.wait(POLL_SECONDS):
                    return
                if time.monotonic() - checked >= CHECK_EVERY_SECONDS:
                    checked = time.monotonic()
                    if text := self._complain():
                        live.console.print(text, highlight=False)

    def _log(self) -> None:
        number = 0
        while not self._stop.wait(CHECK_EVERY_SECONDS):
            number += 1
            if text := self._complain():
                print(text, file=sys.stderr, flush=True)
            if number % (LOG_EVERY_SECONDS // CHECK_EVERY_SECONDS) == 0:
                print(self._now(), file=sys.stderr, flush=True)

    def _complain(self) -> str | None:
        try:
            return self._complaint()
        except (OSError, StorageLost):  # the line says so
            return None

    def _now(self) -> str:
        """The line, or the last one if the storage does not answer now."""
        try:
            self._told = self._line()
        except (OSError, StorageLost) as error:
            return f"{self._told}  storage does not answer: {' '.join(str(error).split())}"
        return self._told


class Watch:
    """Looks for what keeps a run from going on: no room for its actors, or a storage that cannot be written."""

    def __init__(self, run: RunFolder, store: RecordStore, session: str, ask: cluster.Ask, least: int) -> None:
        self._run = run.hasty()
        self._store = store
        self._session = session
        self._ask = ask
        self._least = least
        self._committed = -1
        self._changed = time.monotonic()  # when a row was committed last, or this was said

    def __call__(self) -> str | None:
        """One line, or None if nothing is wrong."""
        if short := cluster.shortage(self._ask, self._least):
            return f"waiting: {short}"
        try:
            with self._run.probe.writing() as stream:
                stream.write(bytes(PROBE_BYTES))
            self._run.probe.delete_file()
        except OSError as error:
            return f"cannot write to {self._run.path}, waiting: {' '.join(str(error).split())}"
        return self._standstill()

    def _standstill(self) -> str | None:
        committed, now = self._store.totals().num_rows, time.monotonic()
        if committed != self._committed:
            self._committed, self._changed = committed, now
        if now - self._changed < STANDSTILL_SECONDS:
            return None
        self._changed = now
        return (
            f"no row was committed for {clock(STANDSTILL_SECONDS)}: {self._store.num_workers(self._session)} actors "
            f"have started, the cluster has {cluster.free_resources()} free, an actor asks for {self._ask} and reading "
            f"for {cluster.READER_CPUS} CPU"
        )


class RowsLine:
    """The progress line of a corpus run: rows committed so far."""

    def __init__(
        self, store: RecordStore, rows: RowCount, session: str, describe: Callable[[Totals], list[str]]
    ) -> None:
        self._store = store
        self._describe = describe
        self._rows = rows
        self._session = session
        self._before = store.totals().num_rows  # by earlier sessions, which do not count for this one's speed
        self._started = time.monotonic()

    def __call__(self) -> str:
        """The line now."""
        totals = self._store.totals()
        seconds = time.monotonic() - self._started
        rate = (totals.num_rows - self._before) / seconds
        about = "" if self._rows.is_exact else "~"
        parts = [f"{totals.num_rows:,}/{about}{self._rows.num_rows:,} rows"]
        if rate > 0:
            left = max(0, self._rows.num_rows - totals.num_rows) / rate
            parts += [f"{rate:,.1f} rows/s" if rate < 100 else f"{rate:,.0f} rows/s", f"ETA {clock(left)}"]
        else:
            num_workers = self._store.num_workers(self._session)
            parts.append(f"starting, {clock(seconds)}, {num_workers or 'no'} actors at work yet")
        parts += self._describe(totals)
        parts.append(f"{totals.statuses['quarantined']:,} quarantined")
        return "  ".join(parts)
