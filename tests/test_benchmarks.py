"""Benchmarks are run by hand. They must not rot meanwhile."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = [
    path for path in (Path(__file__).parent / "benchmarks").glob("*.py") if path.stem not in ("__init__", "measured")
]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_can_be_imported_and_has_its_result(path):
    module = importlib.import_module(f"tests.benchmarks.{path.stem}")
    assert f"python -m tests.benchmarks.{path.stem}" in module.__doc__
    assert callable(module.main)
    assert (path.parent / "results" / f"{path.stem}.json").exists()
