"""Sample answers: many per question, from a model in this cluster or behind an endpoint.

    python -m jobs.sample --input ../shared/data/gsm8k/test.jsonl --format gsm8k --limit 16 --max-tokens 200 \\
        --output runs/samples

One terminal record per question in OUTPUT/rows, with all its samples. Engines: transformers (batches of any
rows, the same sample for the same seed), vllm (through ray.data.llm; needs the cuda or the cpu extra), openai
(any compatible endpoint; the key in OPENAI_API_KEY). `jobs.grade --format samples` tells right from wrong.
"""

import json
import os
import socket
import sys
import urllib.parse
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import Field, model_validator

from actors.engine_protocol import Engine
from actors.models import check_model, context_window, end_ids, resolve_model
from actors.records import Totals
from actors.sampler import Sampler
from algorithms.prompts import INSTRUCTION, PromptStyle
from algorithms.sampling import SamplingParams
from jobs.driver import adapters, command, inputs, pipeline
from jobs.driver.command import UserError
from jobs.driver.pipeline import Pipeline, PipelineConfig, Stream, resolve_dtype, stream_through_actors
from jobs.driver.templates import read_template

JOB: Final = "sample"
EngineName = Literal["transformers", "vllm", "openai"]
ONLY_FOR: Final[dict[str, tuple[EngineName, ...]]] = {  # flag -> the engines that know it
    "url": ("openai",),
    "concurrency": ("openai",),
    "patience_hours": ("openai",),
    "adapter": ("transformers", "vllm"),
    "dtype": ("transformers", "vllm"),
    "max_batch": ("transformers", "vllm"),
    "gpus_per_actor": ("transformers", "vllm"),
    "max_model_len": ("vllm",),
    "tensor_parallel": ("vllm",),
    "engine_kwargs": ("vllm",),
}


DEFAULT_BATCH: Final = 32
VLLM_LORA_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)


class SampleConfig(PipelineConfig):
    """Flags of `jobs.sample`."""

    format: Literal["questions", "gsm8k", "math", "steps"] = "questions"
    """How to read a row. questions: question and, if there, answer. The others as in jobs.refine: the answer they
    state is kept as the gold answer."""
    engine: EngineName = "transformers"
    """Who draws the samples."""
    model: str = "smollm2"
    """smollm2 (embedded), a model folder or a hub name; for openai the endpoint's name of it."""
    adapter: str | None = None
    """Folder of a PEFT adapter for the model, or of a run of jobs.train."""
    url: str | None = None
    """Of the endpoint, such as https://api.example.com/v1."""
    num_samples: int = Field(default=8, ge=1)
    """Samples of each question."""
    temperature: float = Field(default=0.7, ge=0)
    """0 takes the likeliest token always."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw only from the likeliest tokens that together have this probability."""
    max_tokens: int = Field(default=512, ge=1)
    """Of one sample at most."""
    stop: tuple[str, ...] = ()
    """Texts that end a sample, and are not part of it."""
    seed: int = 0
    """The same seed gives the same samples (transformers: whatever the batching)."""
    template: str | None = None
    """A prompt text with {question} in it, or a file that holds one, in place of the model's chat template."""
    instruction: str = INSTRUCTION
    """Stands below each question in the chat template; "" for none."""
    few_shot: str | None = None
    """JSON lines with question and solution: worked examples before each question."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights and activations. auto: bfloat16 on a GPU, float32 on a CPU."""
    max_batch: int | None = Field(default=None, ge=1)
    """Samples that an actor decodes at once; by default 32, for vllm what it chooses itself."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Window of the vLLM engine; the model's own by default."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share one vLLM engine."""
    engine_kwargs: dict[str, str] = Field(default_factory=dict)
    """More arguments of the vLLM engine, as pairs: --engine-kwargs gpu_memory_utilization 0.5."""
    concurrency: int = Field(default=32, ge=1)
    """Requests of an actor that the endpoint has at once."""
    patience_hours: float = Field(default=4.0, gt=0)
    """How long the endpoint may fail before the run stops; it goes on with the same command."""

    @model_validator(mode="after")
    def _check_together(self) -> "SampleConfig":
        if self.engine == "openai" and not self.url:
            raise ValueError("--engine openai needs --url")
        if self.engine == "openai" and self.model == type(self).model_fields["model"].default:
            raise ValueError("--engine openai needs --model: the endpoint's name of the model")
        for name, engines in ONLY_FOR.items():
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if self.engine not in engines and getattr(self, name) != default:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} does nothing with --engine {self.engine}: it is for {' and '.join(engines)}")
        if self.engine == "vllm" and self.tensor_parallel > 1 and not self.gpus_per_actor:
            raise ValueError(f"--tensor-parallel {self.tensor_parallel} needs --gpus-per-actor {self.tensor_parallel}")
        if self.engine == "vllm" and self.gpus_per_actor not in (0, self.tensor_parallel):
            raise ValueError(
                f"--gpus-per-actor {self.gpus_per_actor:g} with --engine vllm must be --tensor-parallel "
                f"{self.tensor_parallel}, or 0 for a CPU"
            )
        if self.template is not None and self.instruction != INSTRUCTION:
            raise ValueError("--instruction does nothing with --template: write it into the template")
        return self

    def params(self) -> SamplingParams:
        """How samples are drawn."""
        return SamplingParams(self.num_samples, self.temperature, self.top_p, self.max_tokens, self.stop, self.seed)


@dataclass(frozen=True)
class MakeTransformers:
    """Makes the transformers engine inside an actor, where torch is imported."""

    model: str
    adapter: str | None
    params: SamplingParams
    device: str
    dtype: str
    max_batch: int
    num_threads: int | None

    def __call__(self) -> Engine:
        """Load the model."""
        from actors.transformers_engine import TransformersEngine

        return TransformersEngine(
            self.model,
            self.params,
            device=self.device,
            dtype=self.dtype,
            max_batch=self.max_batch,
            num_threads=self.num_threads,
            adapter=self.adapter,
        )


@dataclass(frozen=True)
class MakeOpenAI:
    """Makes the client of an endpoint inside an actor."""

    url: str
    model: str
    params: SamplingParams
    api_key: str = field(repr=False)  # from the driver's environment, which is not the actors'
    concurrency: int
    patience_seconds: float

    def __call__(self) -> Engine:
        """Open the client."""
        from actors.openai_engine import OpenAIEngine

        return OpenAIEngine(
            self.url,
            self.model,
            self.params,
            api_key=self.api_key,
            concurrency=self.concurrency,
            patience_seconds=self.patience_seconds,
        )


def main() -> None:
    """Entry point of `python -m jobs.sample`."""
    command.main(SampleConfig, run, __doc__ or "")


def run(config: SampleConfig, make_engine: Callable[[], Engine] | None = None) -> int:
    """Sample, or go on sampling; the exit status. `make_engine` replaces the engine (tests, other engines)."""
    corpus = inputs.open_corpus(config.input, config.format, config.columns, None, config.id_column, config.limit)
    corpus = replace(corpus, keeps_columns=config.format != "questions")  # records have no place for the gold solution
    style = prompt_style(config)
    if make_engine is None:
        model, stream = _engine(config, style)
    else:
        model, stream = {"model": repr(make_engine)}, _through_samplers(config, style, make_engine)
    identity = {
        "engine": {"name": config.engine, **model},
        "sampling": asdict(config.params()),
        "prompt": asdict(style),
    }
    adapted = f" with {config.adapter}" if config.adapter else ""
    doing = f"sampling {config.num_samples} answers each from {model['model']}{adapted}"
    return pipeline.run(Pipeline(JOB, config, corpus, identity, doing, stream, _tokens))


def _engine(config: SampleConfig, style: PromptStyle) -> tuple[dict[str, Any], Stream]:
    """What identifies the model, and the stream through its engine."""
    params = config.params()
    if config.engine == "openai":
        assert config.url is not None
        _tell_if_silent(config.url)
        key = os.environ.get("OPENAI_API_KEY", "none")
        remote = MakeOpenAI(config.url, config.model, params, key, config.concurrency, config.patience_hours * 3600)
        return {"model": config.model, "url": config.url}, _through_samplers(config, style, remote)
    dtype = resolve_dtype(config.dtype, config.device)
    try:
        model: dict[str, Any] = {**check_model(config.model, chat=style.template is None), "dtype": dtype}
    except ValueError as error:
        raise UserError(str(error)) from None
    adapter = None
    if config.adapter is not None:
        adapter, model["adapter"] = adapters.find("--adapter", config.adapter, config.model)
    if config.engine == "vllm":
        model |= {"max_model_len": config.max_model_len, "engine_kwargs": config.engine_kwargs}
        return model, _through_vllm(config, style, adapter, dtype)
    local = MakeTransformers(
        config.model, adapter, params, config.device, dtype, config.max_batch or DEFAULT_BATCH, config.threads_per_actor
    )
    return model, _through_samplers(config, style, local)


def _through_samplers(config: SampleConfig, style: PromptStyle, make_engine: Callable[[], Engine]) -> Stream:
    params = config.params()
    return stream_through_actors(config, Sampler, lambda output, session: (make_engine, style, params, output, session))


def _through_vllm(config: SampleConfig, style: PromptStyle, adapter: str | None, dtype: str) -> Stream:
    from jobs.driver.vllm_stream import VllmEngine, check_vllm, stream_through_vllm

    check_vllm()
    engine_kwargs: dict[str, Any] = {"dtype": dtype, "logprobs_mode": "raw_logprobs"}
    if config.max_batch is not None:
        engine_kwargs["max_num_seqs"] = config.max_batch
    if config.max_model_len is not None:
        engine_kwargs["max_model_len"] = config.max_model_len
    if config.tensor_parallel > 1:
        engine_kwargs["tensor_parallel_size"] = config.tensor_parallel
    if config.device == "cpu":
        engine_kwargs["seed"] = config.seed
        engine_kwargs["enforce_eager"] = True  # compiling takes longer than most runs on a CPU
        engine_kwargs["gpu_memory_utilization"] = 0.35  # of the node's memory, which is not the engine's alone
    if adapter is not None:
        engine_kwargs |= {"enable_lora": True, "max_lora_rank": _lora_rank(adapter), "max_loras": 1}
    engine_kwargs |= {name: yaml.safe_load(value) for name, value in config.engine_kwargs.items()}
    model = resolve_model(config.model)
    window = int(engine_kwargs.get("max_model_len") or context_window(model))
    engine = VllmEngine(
        model,
        adapter,
        config.params(),
        style,
        engine_kwargs,
        end_ids(model),
        window,
        is_seeded=config.device != "cpu",
    )
    return stream_through_vllm(config, engine)


def _tell_if_silent(url: str) -> None:
    """An endpoint that is down is waited for, for hours; a wrong URL should be seen at once."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname:
        raise UserError(f"--url {url!r} names no host: give one such as https://api.example.com/v1")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=5).close()
    except OSError as error:
        print(
            f"{url} does not answer now ({error}): waiting for it, --patience-hours long", file=sys.stderr, flush=True
        )


def _lora_rank(adapter: str) -> int:
    """The least rank vLLM can be told that holds the adapter's. Raises UserError for what vLLM does not serve."""
    settings = json.loads((Path(adapter) / "adapter_config.json").read_text("utf-8"))
    if settings.get("peft_type") != "LORA":
        raise UserError(f"--adapter {adapter} is {settings.get('peft_type')}: vLLM serves LORA only")
    rank = max([settings["r"], *settings.get("rank_pattern", {}).values()])
    found = next((each for each in VLLM_LORA_RANKS if each >= rank), None)
    if found is None:
        raise UserError(f"--adapter {adapter} has rank {rank}; vLLM serves up to {VLLM_LORA_RANKS[-1]}")
    return found


def prompt_style(config: SampleConfig) -> PromptStyle:
    """The prompts of these flags. Raises UserError for a template or a file of examples that is none."""
    return PromptStyle(
        read_template(config.template), config.instruction, _shots(config.few_shot) if config.few_shot else ()
    )


def _shots(path: str) -> tuple[tuple[str, str], ...]:
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()
        shots = [json.loads(line) for line in lines if line.strip()]
        found = tuple((shot["question"], shot["solution"]) for shot in shots)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--few-shot {path} must hold JSON lines with question and solution: {error!r}") from None
    if not found or not all(isinstance(text, str) for shot in found for text in shot):
        raise UserError(f"--few-shot {path} must hold JSON lines with the texts question and solution")
    return found


def _tokens(totals: Totals) -> list[str]:
    samples = totals.sums["num_samples"]
    return [f"{samples:,} samples, {totals.sums['num_tokens'] / samples:.0f} tokens each"] if samples else []


if __name__ == "__main__":
    main()
