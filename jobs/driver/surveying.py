"""Probes on every node of the cluster, in parallel and with a time limit, for `jobs.doctor`: facts, no judgement.

A node that does not answer in time is a fact too.
"""

import dataclasses
import importlib.metadata
import math
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors import diagnosis
from actors.diagnosis import ModelFacts, NodeFacts, Sighting, StorageFacts
from actors.runs.storage import Storage, open_storage
from jobs.driver import cluster

CLOCK_ROUNDS: Final = 3
MOST_NEIGHBOURS: Final = 8  # whose ports a node tries


@dataclass(frozen=True)
class Survey:
    """What the probes found. `silent` says of a node why it did not answer."""

    nodes: tuple[NodeFacts, ...]
    silent: Mapping[str, str]
    driver_python: str
    driver_packages: Mapping[str, str]
    output: str | None = None
    storage: tuple[StorageFacts, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    model: ModelFacts | None = None


@dataclass(frozen=True)
class Trial:
    """A model to try, as an actor would have it."""

    name: str
    dtype: str
    ask: cluster.Ask
    num_threads: int | None

    @property
    def device(self) -> str:
        """Where the model goes."""
        return "cuda" if self.ask.gpus else "cpu"


@dataclass(frozen=True)
class _Node:
    """A node that is alive, by the name that a person reads."""

    label: str
    id: str
    host: str
    ports: tuple[int, ...]
    resources: Mapping[str, float]
    ray_folder: str


def survey(output: str | None, trial: Trial | None, seconds: float) -> Survey:
    """Ask every node. No step takes longer than `seconds`."""
    import ray

    nodes = _nodes(ray.nodes())
    silent: dict[str, str] = {}
    looks = _on_each(nodes, diagnosis.look, lambda node: (node.ray_folder, _neighbours(node, nodes)), seconds, silent)
    answering = [node for node in nodes if node.label in looks]
    skews = _skews(answering, seconds)
    facts = tuple(
        dataclasses.replace(
            looks[node.label],
            host=node.label,
            ray_gpus=node.resources.get("GPU", 0.0),
            object_store_bytes=int(node.resources.get("object_store_memory", 0)),
            skew_seconds=skews.get(node.label, 0.0),
        )
        for node in answering
    )
    found = {name: importlib.metadata.version(name) for name in diagnosis.PACKAGES}
    result = Survey(facts, silent, platform.python_version(), found, output)
    if output is not None:
        result = dataclasses.replace(result, storage=_storage(output, answering, seconds))
    if trial is not None:
        lost: dict[str, str] = {}
        seen = _on_each(answering, diagnosis.find_model, lambda node: (trial.name,), seconds, lost)
        sightings = [dataclasses.replace(each, host=label) for label, each in seen.items()]
        sightings += [Sighting(label, reason) for label, reason in lost.items()]
        model = None if any(each.error for each in sightings) else _try(trial, answering, seconds)
        result = dataclasses.replace(result, sightings=tuple(sightings), model=model)
    return result


def _nodes(listed: Sequence[Mapping[str, Any]]) -> list[_Node]:
    """The nodes that are alive. Several on one machine get numbers."""
    alive = sorted(
        (node for node in listed if node["Alive"]), key=lambda node: (node["NodeManagerHostname"], node["NodeID"])
    )
    names = [node["NodeManagerHostname"] for node in alive]
    labels = [
        name if names.count(name) == 1 else f"{name}#{names[: position + 1].count(name)}"
        for position, name in enumerate(names)
    ]
    return [
        _Node(label, node["NodeID"], node["NodeManagerAddress"],
              (node["NodeManagerPort"], node["ObjectManagerPort"]), node["Resources"],
              str(Path(node["ObjectStoreSocketName"]).parents[2]))
        for label, node in zip(labels, alive, strict=True)
    ]  # fmt: skip


def _neighbours(node: _Node, nodes: Sequence[_Node]) -> list[tuple[str, str, int]]:
    """The ports that a node tries: those of the nodes after it, in a ring."""
    start = nodes.index(node)
    others = [nodes[(start + step) % len(nodes)] for step in range(1, min(len(nodes), MOST_NEIGHBOURS + 1))]
    return [(f"{other.label}:{port}", other.host, port) for other in others for port in other.ports if port]


def _on(node: _Node) -> dict[str, Any]:
    """The options of a task that probes this node: it takes no place of an actor's, and is not tried elsewhere."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {
        "num_cpus": 0,
        "max_retries": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False),
    }


def _on_each(
    nodes: Sequence[_Node],
    call: Callable[..., Any],
    arguments: Callable[[_Node], tuple[Any, ...]],
    seconds: float,
    failures: dict[str, str],
) -> dict[str, Any]:
    """The answer of each node, by label, in the order of the nodes. `failures` gets why others gave none."""
    import ray

    remote = ray.remote(call)
    asked = {node.label: remote.options(**_on(node)).remote(*arguments(node)) for node in nodes}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds)
    answers = {}
    for label, ref in asked.items():
        try:
            answers[label] = ray.get(ref, timeout=0)
        except ray.exceptions.GetTimeoutError:
            failures[label] = f"did not answer within {seconds:g} s"
            ray.cancel(ref, force=True)
        except ray.exceptions.RayError as error:
            failures[label] = _reason(error)
    return answers


def _skews(nodes: Sequence[_Node], seconds: float) -> dict[str, float]:
    """How far each clock is off at least: an answer came between question and reply."""
    import ray

    bounds = {node.label: (-math.inf, math.inf) for node in nodes}
    ask = ray.remote(diagnosis.clock)
    for _ in range(CLOCK_ROUNDS):
        asked = time.time()
        waiting = {ask.options(**_on(node)).remote(): node.label for node in nodes}
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=seconds)
            if not done:
                break
            label = waiting.pop(done[0])
            try:
                told = ray.get(done[0])
            except ray.exceptions.RayError:
                continue
            low, high = bounds[label]
            bounds[label] = max(low, told - time.time()), min(high, told - asked)
    return {label: low if low > 0 else high if high < 0 else 0.0 for label, (low, high) in bounds.items()}


def _storage(output: str, nodes: Sequence[_Node], seconds: float) -> tuple[StorageFacts, ...]:
    """Each node writes a file, and looks for those of the others."""
    root = open_storage(output)
    is_new = not root.exists()
    folder: Storage = root / f".doctor-{uuid.uuid4().hex[:8]}"
    names = {node.label: f"{node.label.replace('#', '-')}.probe" for node in nodes}
    failures: dict[str, str] = {}
    written = _on_each(nodes, diagnosis.write_marker, lambda node: (folder, names[node.label]), seconds, failures)
    there = [names[label] for label, facts in written.items() if facts.error is None]
    unseen = _on_each(nodes, diagnosis.unseen_markers, lambda node: (folder, there), seconds, failures)
    _on_each(nodes, diagnosis.remove_markers, lambda node: (folder, is_new), seconds, {})
    of_file = {name: label for label, name in names.items()}
    facts = [
        dataclasses.replace(each, host=label, missing=tuple(of_file[name] for name in unseen.get(label, ())))
        for label, each in written.items()
    ]
    facts += [StorageFacts(label, error=why) for label, why in failures.items() if label not in written]
    return tuple(facts)


def _try(trial: Trial, nodes: Sequence[_Node], seconds: float) -> ModelFacts:
    """Load the model on a node that has room for an actor."""
    import ray

    fitting = [node for node in nodes if trial.ask.fits(node.resources)] or list(nodes)
    if trial.ask.gpus:
        options: dict[str, Any] = {"num_cpus": 0, "num_gpus": trial.ask.gpus}
        places = ray.remote(diagnosis.try_model).options(**options, max_retries=0)
        ref = places.remote(trial.name, trial.dtype, trial.device, trial.num_threads)
        try:
            return ray.get(ref, timeout=seconds)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(ref, force=True)
            return ModelFacts(
                trial.name, "a GPU node", f"no GPU was free, or it took longer than {seconds:g} s", trial.device
            )
        except ray.exceptions.RayError as error:
            return ModelFacts(trial.name, "a GPU node", _reason(error), trial.device)
    failures: dict[str, str] = {}
    arguments = (trial.name, trial.dtype, trial.device, trial.num_threads)
    found = _on_each(fitting[-1:], diagnosis.try_model, lambda node: arguments, seconds, failures)
    for label, facts in found.items():
        return dataclasses.replace(facts, host=label)
    label, reason = next(iter(failures.items()))
    return ModelFacts(trial.name, label, reason, trial.device)


def _reason(error: Exception) -> str:
    """The last line of an error of Ray's, which says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
