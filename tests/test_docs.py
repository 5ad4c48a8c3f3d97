"""The README and docs/ tell the truth: links lead somewhere, flags exist, examples parse, and marked commands run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from algorithms.formats import parse_record
from jobs import VERBS
from tests.fixtures.runs import EXAMPLES, ROOT
from tests.fixtures.verbs import flags_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), EXAMPLES / "README.md"]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUNNABLE = re.compile(r"^<!-- runnable -->\n```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


TAKES_A_VERB = ("submit", "doctor")  # and its flags


def name(page):
    return str(page.relative_to(ROOT))


def anchors(page):
    """The anchors that GitHub gives a page's headings, and its own."""
    text = FENCED.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def commands(text):
    """The command lines of all shell blocks, with continued lines joined."""
    for language, block in FENCED.findall(text):
        if language == "sh":
            yield from re.sub(r"\\\n\s*", "", block).splitlines()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", FENCED.sub("", page.read_text())):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_flag_in_a_command_exists(page):
    for line in commands(page.read_text()):
        for verb in VERBS:
            if match := re.search(rf"\b(?:sluice |jobs\.){verb} (.*)", line):
                words = shlex.split(match[1], comments=True)
                used = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
                inner = set().union(*(flags_of(each) for each in set(words) & set(VERBS) if verb in TAKES_A_VERB))
                assert used <= flags_of(verb) | inner | {"--config"}, line


def test_every_flag_in_a_table_or_a_sentence_exists():
    ours = set().union(*map(flags_of, VERBS)) | {"--config", "--help"}
    others = {
        "--address",
        "--working-dir",
        "--folder",
        "--from-literal",
        "--selector",
        "--tag",
        "--follow",
        "--build-arg",
        "--processes",
        "--families",
        "--deps",
        "--questions",
        "--tasks",
    }  # not ours
    for page in PAGES:
        found = {re.sub("^--no-", "--", flag) for flag in re.findall(r"--[a-z][a-z0-9-]+", page.read_text())}
        assert found <= ours | others, page


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_of_code_that_a_page_names_exists(page):
    for path in re.findall(r"`((?:algorithms|actors|jobs|serve|tests)/[\w/]*\w(?:\.\w+)?/?)", page.read_text()):
        path = path.replace("VERB", "refine")
        assert (ROOT / path).exists(), path


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 175


def test_only_results_mention_data_that_the_repository_does_not_have():
    assert [name(page) for page in PAGES if "../shared" in page.read_text()] == ["docs/results.md"]
    tracked = [path for folder in ("algorithms", "actors", "jobs", "serve") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in tracked if "../shared" in path.read_text()]


def test_every_page_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert all(f"]({name(page)}" in readme for page in PAGES[1:])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_every_example_row_is_good(path):
    items = [parse_record(json.loads(line), path.stem, {}, None) for line in path.read_text().splitlines()]
    assert len({item.question for item in items}) == len(items) > 5


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_that_is_marked_runnable_runs(tmp_path):
    """In the order of the pages, in a folder that holds nothing but the examples."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    blocks = [(page, block) for page in PAGES for block in RUNNABLE.findall(page.read_text())]
    assert len(blocks) >= 15
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for page, block in blocks:
        done = subprocess.run(
            ["bash", "-euc", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{name(page)}:\n{block}\n{done.stderr}"
