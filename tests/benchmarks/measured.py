"""What the benchmarks share: the corpora, and results with the machine, the versions and the command that made them."""

import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SHARED_DATA = Path(os.environ.get("SLUICE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
PACKAGES = ("ray", "torch", "transformers", "pyarrow")


def write_result(name: str, numbers: dict[str, Any]) -> Path:
    """Write results/NAME.json and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    result = {
        # Where a run is kept is this machine's business, and decides no number.
        "command": " ".join(
            ["python", "-m", f"tests.benchmarks.{name}"]
            + ["FOLDER" if Path(word).is_absolute() else word for word in sys.argv[1:]]
        ),
        "machine": {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        **numbers,
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
