"""Sample answers: many for each question, from a model in this cluster or behind an endpoint.

    python -m jobs.sample --input examples/questions.jsonl --max-tokens 200 --output runs/samples

One terminal record for each question in OUTPUT/rows, with all its samples. `actors.engines` holds the engines. vllm
needs the cuda or the cpu extra, and openai the key in OPENAI_API_KEY. `jobs.grade` grades them.
"""

import os
import socket
import sys
import urllib.parse
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import Field, model_validator

from actors.engines.build import DEFAULT_BATCH, ENGINES, EngineOptions, prepare_engine
from actors.engines.protocol import Engine
from actors.errors import UserError
from actors.runs.record_kinds import SAMPLING
from actors.runs.totals import Totals
from actors.sampler import Sampler, rows_at_once
from algorithms.formats import formats_for
from algorithms.prompts import INSTRUCTION
from algorithms.sampling import SamplingParams
from jobs.driver import adapters, command, corpus_run, inputs
from jobs.driver.command import choice, listed
from jobs.driver.corpus_run import CorpusConfig, CorpusRun, Pool, format_help, resolve_dtype
from jobs.driver.prompts import check_instruction, prompt_style

JOB: Final = "sample"
VLLM_BATCH: Final = 256
ENGINE_FLAGS: Final = frozenset.union(*(kind.flags for kind in ENGINES.values()))


class SampleConfig(CorpusConfig):
    """Flags of `jobs.sample`."""

    format: Annotated[str, choice(formats_for("sample"))] = Field(
        default="questions", description=format_help("sample") + " The answer is kept as the gold answer."
    )
    engine: Annotated[str, choice(ENGINES)] = Field(
        default="transformers",
        description=listed("What draws the samples.", {name: kind.description for name, kind in ENGINES.items()}),
    )
    model: str = "smollm2"
    """smollm2 (embedded), a model folder or a hub name; for openai the endpoint's name of the model."""
    adapter: str | None = None
    """Folder of a PEFT adapter for the model, or of a run of jobs.train."""
    url: str | None = None
    """URL of the endpoint, such as https://api.example.com/v1."""
    num_samples: int = Field(default=8, ge=1)
    """Number of samples of each question."""
    temperature: float = Field(default=0.7, ge=0)
    """0 always takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw only from the most likely tokens that together have this probability."""
    max_tokens: int = Field(default=512, ge=1)
    """Maximum length of a sample."""
    stop: tuple[str, ...] = ()
    """Texts that end a sample and are not part of it."""
    seed: int = 0
    """Seed of the samples. With transformers, the same seed gives the same samples however they are batched."""
    template: str | None = None
    """Prompt text with {question} in it, or a file with such a text, instead of the model's chat template."""
    instruction: str = INSTRUCTION
    """Text below each question in the chat template. "" for none."""
    few_shot: str | None = None
    """File of JSON lines with question and solution: worked examples before each question."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and activations. auto: bfloat16 on a GPU, float32 on a CPU."""
    max_batch: int | None = Field(default=None, ge=1)
    """Samples that an actor decodes at once. Default: 32; vLLM chooses its own."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Context window of the vLLM engine. Default: the model's."""
    engine_kwargs: dict[str, str] = Field(default_factory=dict)
    """Further arguments of vLLM's AsyncEngineArgs, in pairs: --engine-kwargs gpu_memory_utilization 0.5."""
    concurrency: int = Field(default=32, ge=1)
    """Requests that an actor sends to the endpoint at once."""
    patience_hours: float = Field(default=4.0, gt=0)
    """How long the endpoint may fail before the run stops. Repeat the command to resume."""

    @model_validator(mode="after")
    def _check_together(self) -> "SampleConfig":
        if self.engine == "openai" and not self.url:
            raise ValueError("--engine openai needs --url")
        if self.engine == "openai" and self.model == type(self).model_fields["model"].default:
            raise ValueError("--engine openai needs --model: the endpoint's name of the model")
        for name in sorted(ENGINE_FLAGS - ENGINES[self.engine].flags):
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if getattr(self, name) != default:
                flag = "--" + name.replace("_", "-")
                readers = " and ".join(engine for engine, kind in ENGINES.items() if name in kind.flags)
                raise ValueError(f"{flag} does nothing with --engine {self.engine}: it is for {readers}")
        if self.engine == "transformers" and self.gpus_per_actor > 1:
            raise ValueError(
                f"--gpus-per-actor {self.gpus_per_actor:g}: --engine transformers computes on one GPU. "
                "For more GPUs, raise --num-actors, or use --engine vllm"
            )
        if self.engine == "vllm" and self.gpus_per_actor > 1 and self.gpus_per_actor % 1:
            raise ValueError(f"--gpus-per-actor {self.gpus_per_actor:g}: vLLM needs whole GPUs, or a fraction of one")
        check_instruction(self.template, self.instruction)
        return self

    @property
    def requests_at_once(self) -> int:
        """Requests that an engine works on at once. vLLM decides by its GPU's memory: this is what it takes usually."""
        if self.engine == "openai":
            return self.concurrency
        return self.max_batch or (DEFAULT_BATCH if self.engine == "transformers" else VLLM_BATCH)

    def params(self) -> SamplingParams:
        """How samples are drawn, with the run's seed."""
        return SamplingParams(self.temperature, self.top_p, self.max_tokens, self.stop, self.seed)

    def engine_options(self) -> EngineOptions:
        """Everything that the engine needs to know. Raises UserError for an adapter or a URL that cannot be used."""
        if self.url is not None:
            _warn_if_silent(self.url)
        return EngineOptions(
            model=self.model,
            needs_chat_template=self.template is None,
            adapter=None if self.adapter is None else adapters.find_adapter("--adapter", self.adapter),
            device=self.device,
            dtype=resolve_dtype(self.dtype, self.device),
            num_threads=self.threads_per_actor,
            num_gpus=int(self.gpus_per_actor),
            seed=self.seed,
            max_batch=self.max_batch,
            max_model_len=self.max_model_len,
            engine_kwargs={name: yaml.safe_load(value) for name, value in self.engine_kwargs.items()},
            url=self.url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            concurrency=self.concurrency,
            patience_seconds=self.patience_hours * 3600,
        )


def main() -> None:
    """Entry point of `python -m jobs.sample`."""
    command.main(SampleConfig, run, __doc__ or "")


def run(config: SampleConfig, make_engine: Callable[[], Engine] | None = None) -> int:
    """Sample, or resume sampling. Returns the exit status. `make_engine` replaces the engine of the flags."""
    corpus = inputs.open_corpus(config.input, config.format, config.columns, None, config.id_column, config.limit)
    corpus = replace(corpus, keeps_columns=config.format != "questions")  # records have no place for a gold solution
    style = prompt_style(config.template, config.instruction, config.few_shot)
    identity: dict[str, Any] = {"model": repr(make_engine)}
    if make_engine is None:
        prepared = prepare_engine(config.engine, config.engine_options())
        make_engine, identity = prepared.factory, prepared.identity
    params = config.params()
    pool = Pool(
        Sampler,
        SAMPLING,
        lambda output, session: (make_engine, style, params, config.num_samples, output, session),
        rows_at_once(config.requests_at_once, config.num_samples),
    )
    identity = {
        "engine": {"name": config.engine, **identity},
        "sampling": {"num_samples": config.num_samples, **asdict(params)},
        "prompt": asdict(style),
    }
    seen = tuple(
        (flag, str(Path(path).resolve()))
        for flag, path in (("--model", config.model), ("--adapter", config.adapter))
        if path and config.engine != "openai" and Path(path).is_dir()
    )
    adapted = f" with {config.adapter}" if config.adapter else ""
    doing = f"sampling {config.num_samples} answers each from {identity['engine']['model']}{adapted}"
    return corpus_run.run(CorpusRun(JOB, config, corpus, identity, doing, pool, _tokens, seen))


def _warn_if_silent(url: str) -> None:
    """Warn about an endpoint that does not answer: the run waits for it for hours, and the URL may be wrong."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname:
        raise UserError(f"--url {url!r} has no host: give a URL such as https://api.example.com/v1")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=5).close()
    except OSError as error:
        print(
            f"{url} does not answer ({error}): waiting for it, for at most --patience-hours",
            file=sys.stderr,
            flush=True,
        )


def _tokens(totals: Totals) -> list[str]:
    samples = totals.sums["num_samples"]
    return [f"{samples:,} samples, {totals.sums['num_tokens'] / samples:.0f} tokens each"] if samples else []


if __name__ == "__main__":
    main()
