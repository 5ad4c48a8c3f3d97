"""Progress of a run: a live line on a terminal, otherwise one line a minute."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from actors.runs.records import RecordStore, Totals
from jobs.driver.inputs import RowCount
from jobs.reports.parts import clock

POLL_SECONDS: Final = 2.0
LOG_EVERY_SECONDS: Final = 60.0


class Progress:
    """A context that shows `line()` from a thread of its own."""

    def __init__(self, line: Callable[[], str]) -> None:
        self._line = line
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
            while True:
                live.update(Text(self._line(), no_wrap=True, overflow="ellipsis"), refresh=True)
                if self._stop.wait(POLL_SECONDS):
                    return

    def _log(self) -> None:
        while not self._stop.wait(LOG_EVERY_SECONDS):
            print(self._line(), file=sys.stderr, flush=True)


class RowsLine:
    """The progress line of a corpus run: rows committed so far."""

    def __init__(self, store: RecordStore, rows: RowCount, describe: Callable[[Totals], list[str]]) -> None:
        self._store = store
        self._describe = describe
        self._rows = rows
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
            parts.append(f"starting, {clock(seconds)}")
        parts += self._describe(totals)
        parts.append(f"{totals.statuses['quarantined']:,} quarantined")
        return "  ".join(parts)
