"""Stages as YAML gives them -> a checked plan: in the order of the work, each with a fingerprint and an output.

`stage://NAME` in a flag is the output of another stage, and `stage://NAME/PATH` something in it. A fingerprint covers
all that decides a stage's results: its verb, its flags, the fingerprints of the stages it reads, and the contents of
the files it reads from elsewhere. It is part of the name of the stage's output, so another result never overwrites it.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.errors import UserError
from actors.runs import manifest
from actors.runs.corpus import Corpus, CorpusFile
from actors.runs.folder import open_run_folder
from actors.runs.storage import list_files, open_storage
from jobs.driver import inputs
from jobs.driver.command import JobConfig
from jobs.driver.stages import stage_config

REFERENCE: Final = re.compile(r"stage://([^/]*)(/.*)?")
NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
OWN_KEYS: Final = ("verb", "after")  # of a stage; all others are flags of its verb
SUFFIXES: Final = {"make_corpus": ".jsonl"}  # of a verb whose output is a file
# Flags that say where and how work is done, and do not change its results.
PLACEMENT: Final = frozenset(
    {"output", "num_actors", "cpus_per_actor", "gpus_per_actor", "num_workers", "cpus_per_worker", "gpus_per_worker",
     "max_failures", "max_quarantined", "max_batch", "token_budget", "concurrency", "patience_hours", "log_every",
     "save_every", "gradient_checkpointing"}
)  # fmt: skip
PATHS: Final = ("input", "data", "test", "run", "compare", "ranker", "adapter", "negative", "nat")  # must be there


@dataclass(frozen=True)
class Stage:
    """One stage. `reads` maps each stage that it reads to the flags that name it; `flags` still hold `stage://`."""

    name: str
    verb: str
    flags: dict[str, Any]
    config: JobConfig
    reads: dict[str, tuple[str, ...]]
    after: tuple[str, ...]
    fingerprint: str = ""
    output: str = ""

    @property
    def key(self) -> str:
        """The name of its output, and of its files beside it."""
        return f"{self.name}-{self.fingerprint[:8]}"

    @property
    def needs(self) -> tuple[str, ...]:
        """The stages that must be finished before it starts."""
        return tuple(dict.fromkeys([*self.reads, *self.after]))

    @property
    def has_own_output(self) -> bool:
        """Whether the user chose its output."""
        return "output" in self.flags

    def resolved(self, outputs: Mapping[str, str]) -> dict[str, Any]:
        """The flags with the outputs of other stages in place of `stage://`, and with its own."""
        return {**_mapped(self.flags, lambda name, text: _located(text, outputs)), "output": self.output}


def make_plan(entries: Mapping[str, Any], root: str) -> tuple[Stage, ...]:
    """The stages in an order in which they can run. Raises UserError for the first mistake, before anything runs."""
    if not entries:
        raise UserError("there is no stage: write some under `stages:`")
    for name, entry in entries.items():
        if not isinstance(entry, Mapping):
            raise UserError(f"stage {name}: {entry!r} must be a mapping with a verb and its flags")
    stages = {name: _parsed(name, entry, tuple(entries)) for name, entry in entries.items()}
    done: dict[str, Stage] = {}
    for name in _ordered({name: stage.needs for name, stage in stages.items()}):
        done[name] = _with_output(stages[name], done, root)
    _check_outputs(done.values(), root)
    return tuple(done.values())


def with_overrides(entries: Mapping[str, Any], overrides: Sequence[tuple[str, str, Any]]) -> dict[str, Any]:
    """The entries with flags of some stages replaced. Raises UserError for a stage that is not there."""
    changed = {name: dict(entry) if isinstance(entry, Mapping) else entry for name, entry in entries.items()}
    for name, flag, value in overrides:
        if name not in changed:
            raise UserError(f"--set {name}.{flag}: there is no stage {name!r}; the stages are {', '.join(changed)}")
        if isinstance(changed[name], dict):  # make_plan complains of anything else
            changed[name][flag] = value
    return changed


def upstream(stages: Sequence[Stage], names: Sequence[str]) -> set[str]:
    """These stages and all that they need."""
    by_name = {stage.name: stage for stage in stages}
    found: set[str] = set()
    todo = list(names)
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += by_name[name].needs
    return found


def _parsed(name: str, entry: Mapping[str, Any], names: Sequence[str]) -> Stage:
    """The stage with its flags checked by its verb's own config, but not yet its place in the plan."""
    if not NAME.fullmatch(name):
        raise UserError(f"stage {name!r}: a name has letters, digits, - and _, and begins with a letter")
    values = {str(key).replace("-", "_"): value for key, value in entry.items()}
    verb, after = values.pop("verb", None), values.pop("after", ())
    if verb is None:
        raise UserError(f"stage {name}: no verb, write for example `verb: refine`")
    if isinstance(after, str):
        after = [after]
    if not isinstance(after, list | tuple):
        raise UserError(f"stage {name}: after {after!r} must be names of stages")
    if values.get("dry_run"):
        raise UserError(f"stage {name}: --dry-run keeps nothing that another stage could read: leave it out")
    suffix = SUFFIXES.get(str(verb), "")
    try:
        config = stage_config(str(verb).replace("-", "_"), {"output": f"{name}{suffix}", **values})
    except UserError as error:
        raise UserError(f"stage {name}: {error}") from None
    reads: dict[str, tuple[str, ...]] = {}
    for flag, text in _texts(values):
        if "stage://" not in text:
            continue
        match = REFERENCE.fullmatch(text)
        if not match or flag == "output":
            raise UserError(f"stage {name}: --{flag} {text!r}: an input is stage://NAME or stage://NAME/PATH")
        reads[match[1]] = tuple(dict.fromkeys([*reads.get(match[1], ()), flag]))
    for other in (*reads, *after):
        if other not in names:
            where = f"--{reads[other][0].replace('_', '-')} stage://{other}" if other in reads else f"after {other}"
            raise UserError(f"stage {name}: {where}: there is no stage {other!r}; the stages are {', '.join(names)}")
    return Stage(name, str(verb).replace("-", "_"), values, config, reads, tuple(map(str, after)))


def _ordered(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The names in an order in which each comes after all it needs. Raises UserError for a circle."""
    order: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in path:
            raise UserError(
                f"stages in a circle: {' -> '.join([*path[path.index(name) :], name])}, each needs the next"
            )
        if name not in order:
            path.append(name)
            for other in needs[name]:
                visit(other)
            path.pop()
            order.append(name)

    for name in needs:
        visit(name)
    return order


def _with_output(stage: Stage, done: Mapping[str, Stage], root: str) -> Stage:
    """The stage with its fingerprint and its output."""
    identity = stage.config.model_dump(mode="json", exclude_defaults=True, exclude=set(PLACEMENT))
    identity["on_gpu"] = any(getattr(stage.config, f"gpus_per_{each}", 0) for each in ("actor", "worker"))
    decided = _mapped(identity, lambda flag, text: _identified(stage.name, flag, text, done))
    digest = hashlib.blake2b(json.dumps([stage.verb, decided], sort_keys=True).encode(), digest_size=16).hexdigest()
    output = f"{root.rstrip('/')}/{stage.name}-{digest[:8]}{SUFFIXES.get(stage.verb, '')}"
    return Stage(
        stage.name, stage.verb, stage.flags, stage.config, stage.reads, stage.after, digest,
        str(stage.flags.get("output", output)),
    )  # fmt: skip


def _identified(stage: str, flag: str, text: str, done: Mapping[str, Stage]) -> Any:
    """What the fingerprint holds for a text: of paths, what is there, and not where it is."""
    if match := REFERENCE.fullmatch(text):
        return {"stage": done[match[1]].fingerprint, "path": match[2] or ""}
    is_glob = any(mark in text for mark in "*?[")
    is_path = flag in PATHS or (flag != "url" and "/" in text)
    if not is_path or "\n" in text:
        return text
    if "://" not in text and not is_glob and not Path(text).expanduser().exists():
        if flag in PATHS:
            raise UserError(f"stage {stage}: --{flag} {text}: no such file or folder")
        return text  # the name of a model on a hub, or a prompt
    if "://" in text and flag not in PATHS:
        return text
    try:
        return _contents(text)
    except (UserError, OSError, ValueError) as error:
        raise UserError(f"stage {stage}: --{flag} {text}: {error}") from None


def _contents(uri: str) -> dict[str, Any]:
    """What identifies a run or files that no stage has made."""
    if not any(mark in uri for mark in "*?["):
        run = manifest.load(open_run_folder(uri))
        if run is not None:
            return {"job": run.job, "identity": run.identity}
    root = open_storage(uri).path.rstrip("/") + "/"
    found = [(each, each.path.removeprefix(root) if each.path.startswith(root) else each.name, size)
             for each, size in list_files(uri, ("",))]  # fmt: skip
    files = tuple(CorpusFile(*each) for each in found)
    return inputs.fingerprint(Corpus(files, format_name=""))


def _check_outputs(stages: Iterable[Stage], root: str) -> None:
    """Raise UserError if two stages would write into one folder."""
    places: list[tuple[str, str]] = []
    for stage in stages:
        mine = _place(stage.output)
        for name, other in places:
            if mine.startswith(other) or other.startswith(mine):
                raise UserError(f"stages {name} and {stage.name} have one output, {stage.output}: choose another")
        places.append((stage.name, mine))
        if _place(root).startswith(mine):
            raise UserError(f"stage {stage.name}: --output {stage.output} holds the pipeline's files: choose another")


def _place(uri: str) -> str:
    """A path or URI in a form that can be compared."""
    return (uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))).rstrip("/") + "/"


def _texts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text in the flags, also in lists, with its flag."""
    for flag, value in values.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, str):
                yield flag, each


def _mapped(values: Mapping[str, Any], change: Callable[[str, str], Any]) -> dict[str, Any]:
    """The flags with each text, also in lists, replaced by `change(flag, text)`."""

    def each(flag: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [each(flag, inner) for inner in value]
        return change(flag, value) if isinstance(value, str) else value

    return {flag: each(flag, value) for flag, value in values.items()}


def _located(text: str, outputs: Mapping[str, str]) -> str:
    match = REFERENCE.fullmatch(text)
    return f"{outputs[match[1]]}{match[2] or ''}" if match else text
