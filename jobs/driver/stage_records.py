"""What a pipeline knows of each stage's runs: one record in OUTPUT/_stages for each stage and fingerprint.

A record says finished only after the stage's process has ended well. A stage whose record says anything else runs
again, and its verb resumes what is there.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from actors.errors import UserError
from actors.runs.storage import Storage, open_storage
from jobs.driver.stage_plan import Stage

FOLDER: Final = "_stages"
Status = Literal["running", "finished", "failed", "stopped"]


@dataclass
class Record:
    """The runs of one stage with one fingerprint. `sessions` holds [start, end] in seconds since the epoch."""

    name: str
    verb: str
    fingerprint: str
    output: str
    flags: dict[str, Any]
    needs: dict[str, str]  # stage -> its fingerprint
    status: Status = "running"
    exit_status: int | None = None
    message: str = ""
    sessions: list[list[float | None]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The time of all sessions whose end is known."""
        return sum(end - start for start, end in self.sessions if start is not None and end is not None)


@dataclass(frozen=True)
class Todo:
    """Whether a stage is finished, and if not, why it runs."""

    is_finished: bool
    why: str


class Records:
    """The records of a pipeline."""

    def __init__(self, root: Storage) -> None:
        self._folder = root / FOLDER

    def begin(self, stage: Stage, fingerprints: dict[str, str]) -> Record:
        """Note that a session of the stage begins."""
        record = self.load(stage) or Record(
            stage.name, stage.verb, stage.fingerprint, stage.output, _shown(stage), fingerprints
        )
        record.status, record.exit_status, record.message = "running", None, ""
        record.sessions.append([time.time(), None])
        self.save(stage, record)
        return record

    def end(self, stage: Stage, record: Record, status: Status, exit_status: int | None, message: str) -> None:
        """Note how a session ended."""
        record.status, record.exit_status, record.message = status, exit_status, message
        record.sessions[-1][1] = time.time()
        self.save(stage, record)

    def save(self, stage: Stage, record: Record) -> None:
        """Write a record atomically."""
        text = json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False)
        (self._folder / f"{stage.key}.json").write_bytes(text.encode("utf-8", "backslashreplace"))

    def load(self, stage: Stage) -> Record | None:
        """The record of this stage with this fingerprint."""
        return self._read(self._folder / f"{stage.key}.json")

    def todo(self, stage: Stage, plan: Sequence[Stage]) -> Todo:
        """Whether the stage must run. Raises UserError if its own output holds another result."""
        record = self.load(stage)
        is_there = open_storage(stage.output).exists()
        if record is not None and record.status == "finished" and is_there:
            return Todo(True, "finished")
        others = self._others(stage)
        if stage.has_own_output and is_there:
            for other in others:
                if other.output == stage.output:
                    raise UserError(
                        f"stage {stage.name}: --output {stage.output} holds another result "
                        f"({_difference(other, stage, plan)}): choose another folder, or delete that one"
                    )
        if record is None:
            return Todo(False, _difference(others[-1], stage, plan) if others else "new")
        if record.status == "finished":
            return Todo(False, "its output is gone")
        if record.status == "failed":
            return Todo(False, f"failed before with exit status {record.exit_status}")
        return Todo(False, "was interrupted, resumes")

    def _others(self, stage: Stage) -> list[Record]:
        """The records of this stage with other fingerprints, the oldest first."""
        found = []
        for name in self._folder.names():
            if name.startswith(f"{stage.name}-") and name.endswith(".json") and name != f"{stage.key}.json":
                record = self._read(self._folder / name)
                if record is not None and record.name == stage.name:
                    found.append(record)
        return sorted(found, key=lambda record: record.sessions[-1][0] or 0.0)

    def _read(self, file: Storage) -> Record | None:
        if not file.exists():
            return None
        try:
            return Record(**json.loads(file.read_bytes()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{file.path} is no record of a stage ({error}): delete it") from None


def _shown(stage: Stage) -> dict[str, Any]:
    """The flags as given, as JSON."""
    return json.loads(json.dumps(stage.flags, default=str))


def _difference(old: Record, stage: Stage, plan: Sequence[Stage]) -> str:
    """Why the stage's fingerprint is not that of an older record."""
    new = _shown(stage)
    changed = [name for name in [*old.flags, *(set(new) - set(old.flags))] if old.flags.get(name) != new.get(name)]
    if old.verb != stage.verb:
        return f"verb was {old.verb}"
    parts = [f"{name} was {_text(old.flags, name)}, is {_text(new, name)}" for name in changed]
    fingerprints = {each.name: each.fingerprint for each in plan}
    parts += [f"{name} has changed" for name in stage.reads if old.needs.get(name) not in (None, fingerprints[name])]
    return "; ".join(parts) or "its input has changed"


def _text(flags: dict[str, Any], name: str) -> str:
    return json.dumps(flags[name], ensure_ascii=False) if name in flags else "the default"
