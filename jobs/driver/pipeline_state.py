"""OUTPUT/pipeline.json: the stages of a pipeline as they are now. `jobs.reports.pipeline` makes the report of it."""

import json
from collections.abc import Sequence
from typing import Any

from actors.runs.folder import RunFolder
from jobs.driver.stage_plan import PATHS, Stage
from jobs.driver.stage_records import FOLDER, Record, Records
from jobs.driver.stage_room import gpus_of


class Writer:
    """Writes the state whenever a stage starts or ends."""

    def __init__(self, plan: Sequence[Stage], records: Records, output: RunFolder, price: float | None) -> None:
        self._plan = plan
        self._records = records
        self._output = output
        self._price = price

    def write(self) -> None:
        """Write the state as it is now."""
        stages = [_facts(stage, self._records.load(stage)) for stage in self._plan]
        state = {"price_per_gpu_hour": self._price, "stages": stages}
        text = json.dumps(state, indent=2, ensure_ascii=False)
        self._output.pipeline.write_bytes(text.encode("utf-8", "backslashreplace"))


def _facts(stage: Stage, record: Record | None) -> dict[str, Any]:
    outside = {
        flag: [text for text in (value if isinstance(value, list | tuple) else [value])
               if isinstance(text, str) and not text.startswith("stage://")]
        for flag, value in stage.flags.items() if flag in PATHS
    }  # fmt: skip
    return {
        "name": stage.name,
        "verb": stage.verb,
        "method": getattr(stage.config, "method", None),
        "fingerprint": stage.fingerprint,
        "output": stage.output,
        "log": f"{FOLDER}/{stage.key}.log",
        "reads": {name: list(flags) for name, flags in stage.reads.items()},
        "after": list(stage.after),
        "from_elsewhere": {flag: texts for flag, texts in outside.items() if texts},
        "status": "not started" if record is None else record.status,
        "exit_status": None if record is None else record.exit_status,
        "message": "" if record is None else record.message,
        "seconds": 0.0 if record is None else record.seconds,
        "sessions": 0 if record is None else len(record.sessions),
        "gpus": gpus_of(stage.config),
    }
