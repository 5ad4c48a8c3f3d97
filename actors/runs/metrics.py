"""The metrics of a training run: one JSON object a line, one line for each logged step."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

from actors.runs.storage import Storage


@dataclass
class MetricsLog:
    """Writes the metrics file. Only one worker writes."""

    file: Storage
    lines: list[dict[str, Any]] = field(default_factory=list)

    def resume_at(self, step: int) -> None:
        """Keep the lines up to the step that training resumes from. Later steps will be logged again."""
        self.lines = [line for line in read_metrics(self.file) if line["step"] <= step]

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of a step."""
        self.lines.append({"step": step, "time": time.time(), **metrics})
        self.file.write_bytes("".join(json.dumps(line) + "\n" for line in self.lines).encode())


def read_metrics(file: Storage) -> list[dict[str, Any]]:
    """The lines of a metrics file, or none if there is no file yet."""
    try:
        return [json.loads(line) for line in file.read_bytes().splitlines()]
    except FileNotFoundError:
        return []
