"""The code that workers on other nodes import, wherever it is installed."""

from pathlib import Path
from typing import Final

PACKAGES: Final = ("algorithms", "actors", "jobs", "serve")
ROOT: Final = Path(__file__).resolve().parents[1]  # the repository, or all of site-packages


def py_modules() -> list[str]:
    """The packages' folders, for Ray's runtime environment."""
    return [str(ROOT / name) for name in PACKAGES if (ROOT / name).is_dir()]
