"""The arrows of the design: jobs -> actors -> algorithms, serve -> actors -> algorithms, and nothing else."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"algorithms", "actors", "jobs", "serve"}
MAY_IMPORT = {
    "algorithms": {"algorithms"},
    "actors": {"actors", "algorithms"},
    "jobs": {"jobs", "actors", "algorithms"},
    "serve": {"serve", "actors", "algorithms"},
}
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imported(path):
    """Every module a file imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    folder = path.relative_to(ROOT).parts[0]
    names = imported(path)
    ours = {name.split(".")[0] for name in names} & FOLDERS
    assert ours <= MAY_IMPORT[folder]
    assert not any(name.split(".")[0] == "tests" for name in names)
    if folder == "algorithms":
        assert not {name.split(".")[0] for name in names} & {"ray", "vllm", "requests", "openai", "pyarrow", "fsspec"}


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_a_job_imports_no_job(path):
    others = {f"jobs.{other.stem}" for other in (ROOT / "jobs").glob("*.py")} - {f"jobs.{path.stem}"}
    assert not imported(path) & others


@pytest.mark.parametrize(
    "folder",
    ["jobs", "actors", "algorithms", "jobs/driver", "algorithms/answers", "algorithms/losses", "algorithms/nat"],
)
def test_the_map_of_a_folder_names_every_file(folder):
    text = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
    for path in (ROOT / folder).glob("*.py"):
        if not path.name.startswith("__"):
            assert any(line.split()[:1] == [path.stem] for line in text.splitlines()), (
                f"{folder}/__init__.py does not mention {path.stem}"
            )


def test_the_scorer_needs_no_ray():
    seen, todo = set(), ["actors.scoring.forest_scorer"]
    while todo:
        name = todo.pop()
        path = ROOT / Path(*name.split(".")).with_suffix(".py")
        if name in seen or not path.exists():
            continue
        seen.add(name)
        names = imported(path)
        assert not any(each.split(".")[0] in ("ray", "vllm") for each in names), name
        todo += [each for each in names if each.split(".")[0] in FOLDERS]
    assert "algorithms.prefix_forest" in seen
