"""The settings of the graph: what `serve run serve.app:build KEY=VALUE ...` and serve/config.yaml can say.

One student is named by `student` and described by the keys beside it (`engine`, `url`, `adapter`, ...). Several are
listed under `students`, and the field `model` of a request chooses among them.
"""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from actors.engines.build import ENGINES

DEFAULT_NAME: Final = "sluice"
MOST_SAMPLES: Final = 256
READ_BY: Final[dict[str, tuple[str, ...]]] = {  # the engines that read a setting, of those that not all do
    "url": ("openai",),
    "patience_seconds": ("openai",),
    "adapter": ("transformers", "vllm"),
    "dtype": ("transformers", "vllm"),
    "threads": ("transformers",),
    "max_model_len": ("vllm",),
    "engine_kwargs": ("vllm",),
}


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Replicas(_Settings):
    """How many copies of a deployment run, and when Ray Serve adds and removes some."""

    min_replicas: int = Field(default=1, ge=0)
    """0 scales to zero: the next request waits until a replica is up."""
    max_replicas: int = Field(default=1, ge=1)
    utilization: float = Field(default=0.8, gt=0, le=1)
    """The part of its capacity that a replica is given before another one is started."""
    upscale_delay_seconds: float = Field(default=5.0, ge=0)
    downscale_delay_seconds: float = Field(default=120.0, ge=0)
    num_cpus: float = Field(default=1.0, ge=0)
    """CPUs that Ray reserves for each replica."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs of each replica. vLLM splits the model over several."""

    @model_validator(mode="after")
    def _check(self) -> "Replicas":
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas={self.min_replicas} is more than max_replicas={self.max_replicas}")
        return self


class SeveralReplicas(Replicas):
    """The same, for deployments without a model of their own."""

    max_replicas: int = Field(default=4, ge=1)


class StudentSettings(_Settings):
    """One student: a model behind one engine, with as many replicas as its load needs."""

    student: str
    """A model, a run of jobs.train, or a PEFT folder; with engine=openai, the endpoint's name of the model."""
    engine: str = "transformers"
    """transformers, vllm or openai."""
    url: str | None = None
    """The endpoint's URL, with engine=openai. Its key is read from OPENAI_API_KEY."""
    adapter: str | None = None
    """A run of jobs.train or a PEFT folder on the model `student`."""
    instruction: str | None = None
    """Text below the question when an answer is voted on. Default: what the student was trained with. "" for none."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. auto: bfloat16 on a GPU, float32 on a CPU."""
    max_batch: int = Field(default=32, ge=1)
    """Samples that a replica decodes at once; with engine=openai, requests at once."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Context window of vLLM. Default: the model's."""
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's AsyncEngineArgs."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of a replica on a CPU. Default: torch's choice."""
    max_queued: int = Field(default=256, ge=1)
    """Samples of each ingress replica that may wait for a place. More are answered with status 429."""
    patience_seconds: float = Field(default=10.0, gt=0)
    """How long an endpoint may fail before a request gets status 503."""
    replicas: Replicas = Replicas()

    @model_validator(mode="after")
    def _check(self) -> "StudentSettings":
        if self.engine not in ENGINES:
            raise ValueError(f"engine={self.engine} is none of {', '.join(ENGINES)}")
        for name in self.model_fields_set & READ_BY.keys():
            if self.engine not in READ_BY[name]:
                raise ValueError(f"{name} does nothing with engine={self.engine}")
        if self.engine == "transformers" and self.replicas.num_gpus > 1:
            raise ValueError("engine=transformers computes on one GPU: raise replicas.max_replicas, or use engine=vllm")
        if self.engine == "openai" and self.url is None:
            raise ValueError("engine=openai needs url=, such as https://api.example.com/v1")
        return self


class AdaptiveSettings(_Settings):
    """What a request may leave out, and what it may not exceed."""

    max_samples: int = Field(default=16, ge=1, le=MOST_SAMPLES)
    """Samples of a question, unless the request says how many."""
    parallel: int = Field(default=4, ge=1, le=MOST_SAMPLES)
    """Samples on their way at once. More answer sooner; fewer waste less."""
    max_tokens: int = Field(default=512, ge=1)
    """Tokens of a sample, unless the request says how many."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of samples that are voted on, unless the request says one."""
    deadline_seconds: float = Field(default=120.0, gt=0)
    """When a vote must end, unless the request says so."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """The threshold of the rule that stops sampling without a `policy`."""


class LimitSettings(_Settings):
    """What the endpoint takes. Keys come from SLUICE_API_KEYS, separated by commas; without it, anyone may ask."""

    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    max_prompt_characters: int = Field(default=200_000, ge=1)
    max_samples: int = Field(default=64, ge=1, le=MOST_SAMPLES)
    """Most samples that a request may ask for."""
    max_tokens: int = Field(default=16_384, ge=1)
    """Most tokens that a sample may have."""
    max_deadline_seconds: float = Field(default=600.0, gt=0)
    max_concurrent: int = Field(default=256, ge=1)
    """Requests that a replica of the ingress works on at once."""
    max_concurrent_per_key: int = Field(default=64, ge=1)
    """The same, for each API key, or each client address without keys."""


class Settings(_Settings):
    """All of the graph."""

    student: str | None = None
    engine: str | None = None
    url: str | None = None
    adapter: str | None = None
    instruction: str | None = None
    dtype: str | None = None
    max_batch: int | None = None
    max_model_len: int | None = None
    engine_kwargs: dict[str, Any] | None = None
    threads: int | None = None
    max_queued: int | None = None
    patience_seconds: float | None = None
    replicas: Replicas | None = None
    """These describe the only student, as StudentSettings."""
    students: dict[str, StudentSettings] = Field(default_factory=dict)
    """Several students by the name that requests give. Instead of `student`."""
    ranker: str | None = None
    """A run of jobs.train --method ranker or ranker-encoder. Without one, samples count alike."""
    ranker_replicas: SeveralReplicas = SeveralReplicas()
    policy: str | None = None
    """A run of jobs.evaluate on scores of this ranker: its vote and stopping rule then decide."""
    rule: str = "gain"
    """Which rule of that run."""
    adaptive: AdaptiveSettings = AdaptiveSettings()
    limits: LimitSettings = LimitSettings()
    ingress: SeveralReplicas = SeveralReplicas()
    answer_processes: int = Field(default=1, ge=1)
    """Processes of an ingress replica that read and compare answers."""
    require_keys: bool = False
    """Build nothing without SLUICE_API_KEYS."""
    log_requests: bool = False
    """Log questions and answers. Otherwise only sizes, times and decisions are logged."""

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        alone = {name: getattr(self, name) for name in StudentSettings.model_fields}
        given = {name: value for name, value in alone.items() if value is not None}
        if self.students and given:
            raise ValueError(f"give `students` or {', '.join(sorted(given))}, not both")
        if not self.students:
            object.__setattr__(self, "students", {DEFAULT_NAME: StudentSettings(**{"student": "smollm2", **given})})
        adaptive, limits = self.adaptive, self.limits
        for name, default, most in (
            ("max_samples", adaptive.max_samples, limits.max_samples),
            ("max_tokens", adaptive.max_tokens, limits.max_tokens),
            ("deadline_seconds", adaptive.deadline_seconds, limits.max_deadline_seconds),
        ):
            if default > most:
                raise ValueError(f"adaptive.{name}={default:g} is above its limit of {most:g}")
        return self
