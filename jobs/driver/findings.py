"""What the facts of a survey mean: one finding for each thing that was looked at, with the mend if something is wrong.

Pure: no Ray, no files. A problem keeps runs from working or finishing, a warning makes them slow or fragile.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from actors.diagnosis import OPTIONAL, PACKAGES, PROBE_BYTES, NodeFacts
from jobs.driver.surveying import Survey

Level = Literal["ok", "warning", "problem"]

GIB: Final = 1 << 30
FULL_DISK: Final = 0.95  # Ray then spills nothing, and tasks that need the room fail
FULLISH_DISK: Final = 0.90
FEW_DISK_BYTES: Final = 5 * GIB
FEW_MEMORY: Final = 0.10
SMALL_STORE_BYTES: Final = GIB // 2
FEW_FILES: Final = 4096
SKEW_SECONDS: Final = 2.0
SKEW_REFUSED_SECONDS: Final = 300.0  # object stores refuse signatures that are 5 to 15 minutes off
SLOW_STORAGE_BYTES_PER_SECOND: Final = 20e6
NAMED_NODES: Final = 4
MUST_AGREE: Final = ("python", "ray")  # Ray refuses or breaks when they differ


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, what was found, and what to do about it."""

    level: Level
    subject: str
    text: str
    mend: str = ""


def findings(survey: Survey) -> list[Finding]:
    """All findings of a survey, in the order in which a person mends them."""
    checks: list[Callable[[Survey], Iterable[Finding]]] = [
        _nodes, _versions, _gpus, _memory, _object_store, _disks, _open_files, _clocks, _ports, _storage, _model,
    ]  # fmt: skip
    return [finding for check in checks for finding in check(survey)]


def _nodes(survey: Survey) -> Iterable[Finding]:
    for host, reason in survey.silent.items():
        yield Finding(
            "problem", "nodes", f"{host} {reason}", "look at its raylet.err, or remove the node and start it anew"
        )
    if survey.nodes:
        cores = sum(node.num_cores for node in survey.nodes)
        yield Finding("ok", "nodes", f"{_count(len(survey.nodes), 'node')} with {_count(cores, 'core')}")


def _versions(survey: Survey) -> Iterable[Finding]:
    wrong = False
    for name in ("python", *PACKAGES):
        have = defaultdict(list)
        for node in survey.nodes:
            have[_version(node, name)].append(node.host)
        here = survey.driver_python if name == "python" else _plain(survey.driver_packages.get(name, ""))
        if len({*have, here}) < 2:
            continue
        wrong = True
        common = here or next(iter(have))
        others = "; ".join(
            f"{version or 'none'} on {_some(hosts)}" for version, hosts in have.items() if version != here
        )
        level: Level = "problem" if name in MUST_AGREE or "" in have else "warning"
        yield Finding(
            level, "versions", f"{name}: {common} here, {others}", "install the same on all nodes: make, or the image"
        )
    if not wrong and survey.nodes:
        python, packages = survey.driver_python, survey.driver_packages
        engines = {
            f"{name} {node.packages[name]}" for node in survey.nodes for name in OPTIONAL if name in node.packages
        }
        vllm = " and ".join(sorted(engines)) or "no vLLM"
        shown = f"Python {python}, Ray {packages.get('ray')}, torch {packages.get('torch')}, {vllm}"
        yield Finding("ok", "versions", shown + (", the same everywhere" if len(survey.nodes) > 1 else ""))


def _version(node: NodeFacts, name: str) -> str:
    return node.python if name == "python" else _plain(node.packages.get(name, ""))


def _plain(version: str) -> str:
    """A version without the kind of its build: 2.13.0+cpu and 2.13.0+cu130 are one."""
    return version.partition("+")[0]


def _gpus(survey: Survey) -> Iterable[Finding]:
    for node in survey.nodes:
        if node.ray_gpus and not node.gpus:
            text = f"{node.host}: Ray offers {node.ray_gpus:g} GPU, and nvidia-smi shows none"
            yield Finding("problem", "GPUs", text, "install the driver, or start Ray there without --num-gpus")
        elif len(node.gpus) > node.ray_gpus:
            text = f"{node.host}: {_count(len(node.gpus), 'GPU')}, of which Ray offers {node.ray_gpus:g}"
            yield Finding("warning", "GPUs", text, f"start Ray there with --num-gpus {len(node.gpus)}")
        if node.gpus and "+cpu" in node.packages.get("torch", ""):
            text = f"{node.host}: torch {node.packages['torch']} is a build for CPUs"
            yield Finding("problem", "GPUs", text, "install torch from an index with CUDA builds")
    drivers = {gpu.driver for node in survey.nodes for gpu in node.gpus}
    if len(drivers) > 1:
        yield Finding(
            "warning", "GPUs", f"drivers differ: {', '.join(sorted(drivers))}", "install the same driver on all nodes"
        )
    kinds = Counter((gpu.name, gpu.memory_bytes) for node in survey.nodes for gpu in node.gpus)
    if kinds:
        listed = ", ".join(f"{number} x {name} ({_gib(size)})" for (name, size), number in kinds.items())
        hosts = sum(bool(node.gpus) for node in survey.nodes)
        version = f", driver {next(iter(drivers))}" if len(drivers) == 1 else ""
        yield Finding("ok", "GPUs", f"{listed} on {hosts} of {_count(len(survey.nodes), 'node')}{version}")
    elif survey.nodes:
        yield Finding("ok", "GPUs", "none: models run on CPUs")


def _memory(survey: Survey) -> Iterable[Finding]:
    few = [node for node in survey.nodes if node.free_memory_bytes < FEW_MEMORY * node.memory_bytes]
    if few:
        shown = _each(few, lambda node: f"{_gib(node.free_memory_bytes)} of {_gib(node.memory_bytes)}")
        yield Finding("warning", "memory", f"free: {shown}", "end what else runs there: Ray kills actors at 95%")
    elif survey.nodes:
        least = min(survey.nodes, key=lambda node: node.free_memory_bytes)
        yield Finding("ok", "memory", f"at least {_gib(least.free_memory_bytes)} of {_gib(least.memory_bytes)} free")


def _object_store(survey: Survey) -> Iterable[Finding]:
    offered = [node for node in survey.nodes if node.object_store_bytes]
    small = [node for node in offered if node.object_store_bytes < SMALL_STORE_BYTES]
    if small:
        shown = _each(small, lambda node: _gib(node.object_store_bytes))
        yield Finding("warning", "object store", shown, "start Ray with --object-store-memory, at least 1 GiB")
    disk = [node for node in offered if node.shm_bytes < node.object_store_bytes]
    if disk:
        shown = _each(disk, lambda node: f"{_gib(node.shm_bytes)} for a store of {_gib(node.object_store_bytes)}")
        mend = "enlarge /dev/shm (docker --shm-size, a memory volume in Kubernetes): Ray uses the disk"
        yield Finding("warning", "object store", f"/dev/shm has {shown}", mend)
    if offered and not small and not disk:
        least = min(node.object_store_bytes for node in offered)
        yield Finding("ok", "object store", f"at least {_gib(least)}, in /dev/shm")


def _disks(survey: Survey) -> Iterable[Finding]:
    disks = [(node, disk) for node in survey.nodes for disk in node.disks if disk.total_bytes]
    troubled = False
    for node, disk in disks:
        used = 1 - disk.free_bytes / disk.total_bytes
        if used < FULLISH_DISK and disk.free_bytes >= FEW_DISK_BYTES:
            continue
        troubled = True
        text = f"{node.host}: {used:.0%} of {disk.folder} ({disk.what}) is used, {_gib(disk.free_bytes)} free"
        if used >= FULL_DISK:
            yield Finding("problem", "disk", text, "make room: at 95% Ray spills nothing any more")
        else:
            yield Finding("warning", "disk", text, "make room, or start Ray with --temp-dir on a larger disk")
    if disks and not troubled:
        node, disk = min(disks, key=lambda each: each[1].free_bytes)
        yield Finding("ok", "disk", f"at least {_gib(disk.free_bytes)} free ({disk.folder} on {node.host})")


def _open_files(survey: Survey) -> Iterable[Finding]:
    few = [node for node in survey.nodes if node.open_files < FEW_FILES]
    if few:
        shown = _each(few, lambda node: str(node.open_files))
        yield Finding("warning", "open files", f"at most {shown}", "ulimit -n 65536 before `ray start`")
    elif survey.nodes:
        yield Finding("ok", "open files", f"at least {min(node.open_files for node in survey.nodes):,} at once")


def _clocks(survey: Survey) -> Iterable[Finding]:
    off = [node for node in survey.nodes if abs(node.skew_seconds) > SKEW_SECONDS]
    if off:
        refused = any(abs(node.skew_seconds) > SKEW_REFUSED_SECONDS for node in off)
        shown = _each(off, lambda node: f"{node.skew_seconds:+,.1f} s")
        mend = "start NTP (chrony) there" + (": object stores refuse their requests" if refused else "")
        yield Finding("problem" if refused else "warning", "clocks", f"off by at least {shown}", mend)
    elif len(survey.nodes) > 1:
        yield Finding("ok", "clocks", f"all within {SKEW_SECONDS:g} s")


def _ports(survey: Survey) -> Iterable[Finding]:
    closed = [node for node in survey.nodes if node.unreachable]
    for node in closed:
        text = f"{node.host} cannot reach {_some(node.unreachable)}"
        yield Finding("problem", "ports", text, "open all ports between nodes: Ray uses 10002 to 19999 and others")
    if len(survey.nodes) > 1 and not closed:
        yield Finding("ok", "ports", "nodes reach each other's raylets and object stores")


def _storage(survey: Survey) -> Iterable[Finding]:
    if not survey.storage:
        return
    failed = [each for each in survey.storage if each.error]
    blind = [each for each in survey.storage if each.missing]
    for each in failed:
        mend = "create it, or give the node's user or role the right to write there"
        yield Finding("problem", "storage", f"{each.host} cannot use {survey.output}: {each.error}", mend)
    if blind:
        each = blind[0]
        others = f", and so for {len(blind) - 1} more" if len(blind) > 1 else ""
        text = f"{survey.output} is not shared: {each.host} does not see what {_some(each.missing)} wrote{others}"
        yield Finding("problem", "storage", text, "mount the same folder on all nodes, or use a URI")
    if failed or blind:
        return
    slowest_write = max(each.write_seconds for each in survey.storage)
    slowest_read = max(each.read_seconds for each in survey.storage)
    rates = [PROBE_BYTES / max(seconds, 1e-9) for seconds in (slowest_write, slowest_read)]
    seen = f"all {len(survey.storage)} nodes see" if len(survey.storage) > 1 else "one node sees"
    text = f"{seen} {survey.output}; writes {_rate(rates[0])}, reads {_rate(rates[1])}"
    free = [each.free_bytes for each in survey.storage if each.free_bytes is not None]
    if free and min(free) < FEW_DISK_BYTES:
        yield Finding("warning", "storage", f"{text}; {_gib(min(free))} free", "make room, or choose another --output")
    elif min(rates) < SLOW_STORAGE_BYTES_PER_SECOND:
        yield Finding("warning", "storage", text, "a run commits every 45 s, so slow storage may hold it up")
    else:
        yield Finding("ok", "storage", text)


def _model(survey: Survey) -> Iterable[Finding]:
    blind = [each for each in survey.sightings if each.error]
    if blind:
        text = f"{_some([each.host for each in blind])}: {blind[0].error}"
        yield Finding("problem", "model", text, "put the model where all nodes see it, or let them reach the hub")
    model = survey.model
    if model is None:
        return
    if model.error:
        text = f"{model.name} does not load on {model.host} ({model.device}): {model.error}"
        mend = "more memory for the actor, a smaller model, or the package that is missing"
        yield Finding("problem", "model", text, mend)
        return
    device = f"{_count(model.num_threads, 'thread')}" if model.device == "cpu" else "a GPU"
    text = (
        f"{model.name} loads in {model.load_seconds:.0f} s ({_gib(model.num_bytes)}) and reads "
        f"{model.tokens_per_second:,.0f} tokens/s on {device} of {model.host}"
    )
    yield Finding("ok", "model", text)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED_NODES} more" if len(names) > NAMED_NODES else ""
    return ", ".join(names[:NAMED_NODES]) + more


def _each(nodes: Sequence[NodeFacts], describe: Callable[[NodeFacts], str]) -> str:
    return _some([f"{describe(node)} on {node.host}" for node in nodes])


def _gib(number: float) -> str:
    return f"{number / GIB:,.0f} GiB" if number >= 10 * GIB else f"{number / GIB:,.1f} GiB"


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e6:,.0f} MB/s"
