"""The metrics of a training run: one JSON object a line, one line for each logged step."""

import contextlib
import json
import time
from typing import Any, Final

from actors.runs.storage import Storage

TAIL_BYTES: Final = 1 << 16  # a hundred lines or more


class MetricsLog:
    """Writes the metrics file. Only one worker writes.

    A local file is appended to, and each line is there once it is logged. Object stores cannot append: there the file
    is written anew by `flush`, which the worker calls at each checkpoint and at the end. Lines that a death takes with
    it belong to steps after the last checkpoint, which are logged again.
    """

    def __init__(self, file: Storage) -> None:
        self._file = file
        self._stream: Any = None  # of a local file
        self._lines: list[bytes] = []  # of a file on an object store

    def resume_at(self, step: int) -> None:
        """Begin: keep the lines up to the step that training resumes from. Later steps will be logged again."""
        kept = [_encoded(line) for line in read_metrics(self._file) if line["step"] <= step]
        self._file.write_bytes(b"".join(kept))
        if self._file.is_local:
            # Kept open: a worker that outlives its command goes on writing to the file that has just been replaced.
            self._stream = self._file.filesystem.open_append_stream(self._file.path)
        else:
            self._lines = kept

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of a step, after `resume_at`."""
        line = _encoded({"step": step, "time": time.time(), **metrics})
        if self._stream is None:
            self._lines.append(line)
        else:
            self._stream.write(line)
            self._stream.flush()

    def flush(self) -> None:
        """Write what is still in memory."""
        if self._stream is None:
            self._file.write_bytes(b"".join(self._lines))


def read_metrics(file: Storage) -> list[dict[str, Any]]:
    """The lines of a metrics file, or none if there is no file yet. A line that a death cut off is left out."""
    try:
        return _parsed(file.read_bytes())
    except FileNotFoundError:
        return []


def read_last_metrics(file: Storage, name: str) -> dict[str, Any] | None:
    """The last line that has the metric `name`, from the end of the file alone. None if there is none yet."""
    try:
        size = file.filesystem.get_file_info(file.path).size or 0
        first = max(0, size - TAIL_BYTES)
        with file.filesystem.open_input_file(file.path) as stream:
            stream.seek(first)
            tail = stream.read(size - first)
    except OSError:  # no file yet, or one that is being replaced
        return None
    if first:
        tail = tail.partition(b"\n")[2]
    return next((line for line in reversed(_parsed(tail)) if name in line), None)


def _parsed(text: bytes) -> list[dict[str, Any]]:
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # cut off
            lines.append(json.loads(line))
    return lines


def _encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"
