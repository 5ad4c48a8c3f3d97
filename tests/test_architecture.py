"""The arrows of the design: jobs -> actors -> algorithms, serve -> actors -> algorithms. What each room promises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import VERBS

ROOT = Path(__file__).parents[1]
FOLDERS = {"algorithms", "actors", "jobs", "serve"}
MAY_IMPORT = {
    "algorithms": {"algorithms"},
    "actors": {"actors", "algorithms"},
    "jobs": {"jobs", "actors", "algorithms"},
    "serve": {"serve", "actors", "algorithms"},
}
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PACKAGES = sorted(path.parent for path in FILES if path.name == "__init__.py")


def relative(path):
    return str(path.relative_to(ROOT))


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


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_follow_the_arrows(path):
    folder = path.relative_to(ROOT).parts[0]
    names = imported(path)
    ours = {name.split(".")[0] for name in names} & FOLDERS
    assert ours <= MAY_IMPORT[folder]
    assert not any(name.split(".")[0] == "tests" for name in names)
    if folder == "algorithms":
        assert not {name.split(".")[0] for name in names} & {"ray", "vllm", "requests", "openai", "pyarrow", "fsspec"}


def reachable(*names):
    """What the modules `names` import, and what each module of ours imports that they reach."""
    found, todo = {}, list(names)
    while todo:
        name = todo.pop()
        base = ROOT.joinpath(*name.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if name not in found and name.split(".")[0] in FOLDERS and path.exists():
            found[name] = imported(path)
            todo += [*found[name], *(name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1))]
    return found


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nothing_imports_a_verb(path):
    names = imported(path)
    assert not {f"jobs.{verb}" for verb in VERBS} & names


def test_the_verbs_are_the_files_of_jobs():
    assert sorted(VERBS) == sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem[0] != "_")


@pytest.mark.parametrize("package", PACKAGES, ids=relative)
def test_the_map_of_a_folder_names_every_file_and_room(package):
    lines = ast.get_docstring(ast.parse((package / "__init__.py").read_text())).splitlines()
    named = {word.strip(",/") for line in lines for word in line.split()[:1]}
    files = {path.stem for path in package.glob("*.py") if not path.name.startswith("__")}
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert files | rooms <= named
    text = "\n".join(lines)
    for template in package.glob("*.j2"):
        assert template.name in text or f"VERB{''.join(template.suffixes)}" in text, template.name


@pytest.mark.parametrize("path", [path for path in FILES if relative(path).startswith("jobs/")], ids=relative)
def test_what_runs_in_a_worker_lives_under_actors(path):
    """Ray is handed classes and functions of `actors` only: jobs define nothing that it would pickle."""
    tree = ast.parse(path.read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    handed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("ray.remote", "RowWorker") or called.endswith((".map_batches", "TorchTrainer", "RayWorker")):
                arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
                handed.update(each.id for each in arguments if isinstance(each, ast.Name))
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert not any("ray.remote" in ast.unparse(each) for each in node.decorator_list), node.name
    assert not handed & defined
    assert not imported(path) & {"ray.data.block", "ray.data.datasource"}  # whose subclasses read in workers


@pytest.mark.parametrize(
    ("names", "banned"),
    [
        (["actors.scoring.forest_scorer"], {"ray", "vllm"}),
        (["actors.engines.transformers"], {"ray", "vllm"}),
        (["actors.training.trainer"], {"ray", "vllm"}),
        (["actors.processes.pool", "actors.processes.grading"], {"ray", "vllm", "torch"}),
        ([f"jobs.reports.{path.stem}" for path in (ROOT / "jobs" / "reports").glob("[a-z]*.py")], {"ray", "vllm"}),
    ],
    ids=["scorer", "transformers engine", "trainer", "killable processes", "reports"],
)
def test_what_works_without_ray_imports_none(names, banned):
    for name, imports in reachable(*names).items():
        assert not {each.split(".")[0] for each in imports} & banned, name


@pytest.mark.parametrize("name", ["actors.scoring.forest_scorer", "actors.engines.transformers", "jobs.reports.page"])
def test_importing_it_really_brings_no_ray(name):
    program = f"import sys, {name}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
