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
from typing import Annotated, Any, Final

import yaml
from pydantic import Field, model_validator

from actors.engines.build import DEFAULT_BATCH, ENGINES, EngineOptions, prepare_engine
from actors.engines.protocol import Engine
from actors.errors import UserError
from actors.models.source import resolve_dtype
from actors.models.trained import find_adapter
from actors.runs.record_kinds import SAMPLING
from actors.runs.totals import Totals
from actors.sampler import Sampler, rows_at_once
from algorithms.formats import formats_for
from algorithms.sampling import SamplingParams
from jobs.driver import command, corpus_run, inputs
from jobs.driver.command import choice
from jobs.driver.corpus_run import CorpusConfig, CorpusRun, Pool, format_help
from jobs.driver.prompts import check_instruction, prompt_style
from jobs.driver.sampling import SamplingFlags

JOB: Final = "sample"
VLLM_BATCH: Final = 256
ENGINE_FLAGS: Final = frozenset.union(*(kind.flags for kind in ENGINES.values()))


class SampleConfig(SamplingFlags, CorpusConfig):
    """Flags of `jobs.sample`."""

    format: Annotated[str, choice(formats_for("sample"))] = Field(
        default="questions", description=format_help("sample") + " The answer is kept as the gold answer."
    )
    model: str = "smollm2"
    """smollm2 (embedded), a model folder or a hub name; for openai the endpoint's name of the model."""
    num_samples: int = Field(default=8, ge=1)
    """Number of samples of each question."""

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
            adapter=None if self.adapter is None else find_adapter("--adapter", self.adapter),
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
