"""The wheel holds all that a user needs, and runs without the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.fixtures.runs import EXAMPLES, ROOT, records

PACKAGES = ("algorithms", "actors", "jobs", "serve")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT], check=True)
    [found] = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_template_and_no_test(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT))
        for folder in PACKAGES
        for pattern in ("*.py", "*.j2", "*.html", "*.js", "*.css", "*.svg", "*.json")
        for path in (ROOT / folder).rglob(pattern)
    }
    assert held == ours
    assert any(name.endswith(".j2") for name in held)
    assert any(name.endswith("/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_a_command_of_the_wheel_refines_and_reports(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(tmp_path / "site")
    run = tmp_path / "run"
    for args in (
        ["-c", "import jobs; assert jobs.__file__.startswith(__import__('os').environ['PYTHONPATH'])"],
        ["-m", "jobs", "refine", "--input", EXAMPLES / "steps.jsonl", "--output", run, "--limit", "4"],
    ):
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert len(records(run)) == 4
    assert "<html" in (run / "report.html").read_text()
