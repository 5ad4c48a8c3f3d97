"""The table of engines: from options to a factory that a worker or a Serve replica calls.

`prepare` runs on the driver. It checks the options and the model, loads no weights, and returns a picklable factory
with what identifies the engine in a manifest. The factory loads the model where it is called.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from actors.engines.protocol import Engine
from actors.errors import UserError
from actors.models.adapters import check_adapter
from actors.models.checks import check_model
from actors.models.source import ModelSource

DEFAULT_BATCH: Final = 32  # samples that the transformers engine decodes at once
VLLM_LORA_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The options of all engines. Each engine reads some of them."""

    model: str = "smollm2"
    needs_chat_template: bool = True
    adapter: str | None = None  # a folder with a PEFT adapter
    device: str = "cpu"
    dtype: str = "float32"
    num_threads: int | None = None
    num_gpus: int = 0
    seed: int = 0
    max_batch: int | None = None
    max_model_len: int | None = None
    engine_kwargs: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    api_key: str = field(default="none", repr=False)
    concurrency: int = 32
    patience_seconds: float = 4 * 3600
    judges_refusals: bool = True


@dataclass(frozen=True)
class PreparedEngine:
    """A checked engine: `factory` builds it, `identity` goes into the manifest."""

    factory: Callable[[], Engine]
    identity: dict[str, Any]


@dataclass(frozen=True)
class EngineKind:
    """One engine. `flags` names the flags of `jobs.sample` that it reads and some other engine does not."""

    description: str
    flags: frozenset[str]
    prepare: Callable[[EngineOptions], PreparedEngine]


def prepare_engine(name: str, options: EngineOptions) -> PreparedEngine:
    """Check the options of an engine. Raises UserError if they do not fit it or its model."""
    return ENGINES[name].prepare(options)


@dataclass(frozen=True)
class TransformersFactory:
    """Builds the transformers engine."""

    model: ModelSource
    adapter: str | None
    device: str
    dtype: str
    max_batch: int
    num_threads: int | None

    def __call__(self) -> Engine:
        """Load the model."""
        from actors.engines.transformers import TransformersEngine

        return TransformersEngine(
            self.model,
            adapter=self.adapter,
            device=self.device,
            dtype=self.dtype,
            max_batch=self.max_batch,
            num_threads=self.num_threads,
        )


@dataclass(frozen=True)
class VllmFactory:
    """Builds the vLLM engine. `arguments` are those of vLLM's AsyncEngineArgs."""

    model: ModelSource
    adapter: str | None
    on_gpu: bool
    arguments: Mapping[str, Any]

    def __call__(self) -> Engine:
        """Start vLLM."""
        from actors.engines.vllm import VllmEngine

        return VllmEngine(self.model, adapter=self.adapter, on_gpu=self.on_gpu, arguments=self.arguments)


@dataclass(frozen=True)
class OpenAIFactory:
    """Builds the client of an endpoint. The key comes from the driver's environment, which workers do not share."""

    url: str
    model: str
    api_key: str = field(repr=False)
    concurrency: int
    patience_seconds: float
    judges_refusals: bool = True
    request_seconds: float = 600.0

    def __call__(self) -> Engine:
        """Open the client."""
        from actors.engines.openai import OpenAIEngine

        return OpenAIEngine(
            self.url,
            self.model,
            api_key=self.api_key,
            concurrency=self.concurrency,
            patience_seconds=self.patience_seconds,
            judges_refusals=self.judges_refusals,
            request_seconds=self.request_seconds,
        )


def _local_model(options: EngineOptions) -> tuple[ModelSource, dict[str, Any]]:
    """The checked model, with its adapter, of an engine that loads one."""
    checked = check_model(options.model, chat=options.needs_chat_template)
    identity: dict[str, Any] = {**checked.identity, "dtype": options.dtype}
    if options.adapter is not None:
        identity["adapter"] = check_adapter(options.adapter, checked.source)
    return checked.source, identity


def _prepare_transformers(options: EngineOptions) -> PreparedEngine:
    source, identity = _local_model(options)
    factory = TransformersFactory(
        source,
        options.adapter,
        options.device,
        options.dtype,
        options.max_batch or DEFAULT_BATCH,
        options.num_threads,
    )
    return PreparedEngine(factory, identity)


def _prepare_vllm(options: EngineOptions) -> PreparedEngine:
    if importlib.util.find_spec("vllm") is None:
        raise UserError("--engine vllm needs vLLM: uv pip install -e '.[cuda]', or '.[cpu]' without a GPU")
    on_gpu = options.device == "cuda"
    source, identity = _local_model(options)
    arguments: dict[str, Any] = {"dtype": options.dtype, "seed": options.seed, "max_model_len": options.max_model_len}
    if options.max_batch is not None:
        arguments["max_num_seqs"] = options.max_batch
    if options.num_gpus > 1:
        arguments["tensor_parallel_size"] = options.num_gpus
        arguments["distributed_executor_backend"] = "mp"  # in the GPUs of this process, wherever Ray placed it
    if not on_gpu:
        arguments["enforce_eager"] = True  # compiling takes longer than most runs on a CPU
        arguments["gpu_memory_utilization"] = 0.35  # of the node's memory, which other processes use too
    if options.adapter is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _lora_rank(options.adapter)}
    arguments |= options.engine_kwargs
    identity |= {"max_model_len": options.max_model_len, "engine_kwargs": dict(options.engine_kwargs)}
    return PreparedEngine(VllmFactory(source, options.adapter, on_gpu, arguments), identity)


def _prepare_openai(options: EngineOptions) -> PreparedEngine:
    if options.url is None:
        raise UserError("--engine openai needs --url")
    factory = OpenAIFactory(
        options.url,
        options.model,
        options.api_key,
        options.concurrency,
        options.patience_seconds,
        options.judges_refusals,
    )
    return PreparedEngine(factory, {"model": options.model, "url": options.url})


def _lora_rank(adapter: str) -> int:
    """The smallest rank that vLLM allows and the adapter fits into. Raises UserError for an adapter it cannot serve."""
    settings = json.loads((Path(adapter) / "adapter_config.json").read_text("utf-8"))
    if settings.get("peft_type") != "LORA":
        raise UserError(f"--adapter {adapter} is of kind {settings.get('peft_type')}: vLLM serves only LORA")
    rank = max([settings["r"], *settings.get("rank_pattern", {}).values()])
    found = next((each for each in VLLM_LORA_RANKS if each >= rank), None)
    if found is None:
        raise UserError(f"--adapter {adapter} has rank {rank}; vLLM serves ranks up to {VLLM_LORA_RANKS[-1]}")
    return found


ENGINES: Final[Mapping[str, EngineKind]] = MappingProxyType(
    {
        "transformers": EngineKind(
            "a model in the actor's process, with continuous batching; the same seed gives the same samples",
            frozenset({"adapter", "dtype", "max_batch", "gpus_per_actor"}),
            _prepare_transformers,
        ),
        "vllm": EngineKind(
            "vLLM in the actor, split over the actor's GPUs",
            frozenset({"adapter", "dtype", "max_batch", "gpus_per_actor", "max_model_len", "engine_kwargs"}),
            _prepare_vllm,
        ),
        "openai": EngineKind(
            "any OpenAI-compatible endpoint; the key in OPENAI_API_KEY",
            frozenset({"url", "concurrency", "patience_hours"}),
            _prepare_openai,
        ),
    }
)
