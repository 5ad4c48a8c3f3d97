"""Builds the graph: `serve run serve.app:build student=runs/nce ranker=runs/ranker`, or `python -m serve ...`.

    client -> Adaptive (HTTP, votes) -> Student (one engine a replica)
                                     -> Ranker  (scores in batches)

Each deployment scales by itself: students on samples in flight, the ranker on solutions that wait, the ingress on
requests.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from actors.engines.build import EngineOptions, prepare_engine
from actors.engines.protocol import Engine
from actors.errors import UserError
from actors.models.source import resolve_dtype
from actors.models.trained import find_adapter, find_model
from algorithms.prompts import INSTRUCTION
from serve.adaptive import AdaptiveIngress, IngressPlan
from serve.api.protection import KEYS_VARIABLE, hashed_keys
from serve.policies import Policies, budget_of, load_policies
from serve.ranker import BATCH, RankerReplica
from serve.settings import AdaptiveSettings, Replicas, Settings, StudentSettings
from serve.student import StudentReplica, describe_engine

logger = logging.getLogger(__name__)

ROUTER: Final[Any] = "serve.routing.PromptRouter"
POLICY: Final = "serve.scaling:SamplesInFlight"
QUEUED_PER_PLACE: Final = 2  # samples that a replica holds for each one it decodes: the engine never waits for a call
FALLBACK_REPLICAS: Final = 8  # asked in turn if the one that holds the prompt is full
VOTES_AT_ONCE: Final = 50  # that fill the process of an ingress replica: tests/benchmarks/serve_load.py
RANKER_QUEUE: Final = 4096
GRACE_SECONDS: Final = 10.0  # beyond the longest request, for a replica that is taken down
METRICS_SECONDS: Final = 12.0  # over which load is averaged; replicas report every 10 s


@dataclass(frozen=True)
class PreparedStudent:
    """A checked student: the factory of its engine, its lineage, and the prompt that it was trained with.

    `prompt` holds the instruction and the template, as `serve.service.KnownStudent` takes them.
    """

    make_engine: Callable[[], Engine]
    lineage: Mapping[str, Any]
    prompt: Mapping[str, Any]


def build(settings: Settings) -> Application:
    """The graph as a Ray Serve application. Loads no weights.

    Raises UserError for a student, an adapter or a policy that cannot be served. A ranker that cannot be loaded is told
    by its replica, since the graph answers without it.
    """
    return assemble(settings, {name: prepare(name, each) for name, each in settings.students.items()})


def assemble(settings: Settings, prepared: Mapping[str, PreparedStudent]) -> Application:
    """The graph of prepared students, one for each of `settings.students`."""
    policies = _policies(settings)
    plan = IngressPlan(
        lineages={name: each.lineage for name, each in prepared.items()},
        prompts={name: each.prompt for name, each in prepared.items()},
        deployments={name: deployment_name(name) for name in prepared},
        policies=policies,
        adaptive=_within_budget(settings.adaptive, policies),
        limits=settings.limits,
        key_digests=_keys(settings),
        answer_processes=settings.answer_processes,
        log_requests=settings.log_requests,
    )
    longest_seconds = settings.limits.max_deadline_seconds + GRACE_SECONDS
    students = {
        name: _student(name, each.make_engine, settings.students[name], longest_seconds)
        for name, each in prepared.items()
    }
    ranker = None if settings.ranker is None else _ranker(settings.ranker, settings.ranker_replicas)
    ingress = settings.ingress
    adaptive = _deployment(
        serve.ingress()(AdaptiveIngress),
        name="Adaptive",
        max_ongoing_requests=2 * settings.limits.max_concurrent,  # the ingress answers 429 itself, in OpenAI's shape
        autoscaling_config=_autoscaling(
            ingress, ingress.utilization * min(VOTES_AT_ONCE, settings.limits.max_concurrent)
        ),
        ray_actor_options={"num_cpus": ingress.num_cpus},
        graceful_shutdown_timeout_s=longest_seconds,
    )
    application: Application = adaptive.bind(plan, students, ranker)
    return application


def prepare(name: str, settings: StudentSettings) -> PreparedStudent:
    """Check a student. Raises UserError."""
    device = "cuda" if settings.replicas.num_gpus else "cpu"
    trained = None
    if settings.engine != "openai":
        trained = find_model(f"student={name}", settings.student)
        if trained.adapter is not None and settings.adapter is not None:
            raise UserError(f"student={settings.student} has an adapter of its own: name its base model, or no adapter")
    adapter = None if trained is None else trained.adapter
    if settings.adapter is not None:
        adapter = find_adapter("adapter", settings.adapter)
    prompt = {} if trained is None else trained.prompt
    checked = prepare_engine(
        settings.engine,
        EngineOptions(
            model=settings.student if trained is None else trained.model,
            needs_chat_template=False,  # /v1/completions does without
            adapter=adapter,
            device=device,
            dtype=resolve_dtype(settings.dtype, device),
            num_threads=settings.threads,
            num_gpus=int(settings.replicas.num_gpus),
            max_batch=settings.max_batch,
            max_model_len=settings.max_model_len,
            engine_kwargs=settings.engine_kwargs,
            url=settings.url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            concurrency=settings.max_batch,
            patience_seconds=settings.patience_seconds,
            judges_refusals=False,
        ),
    )
    instruction = settings.instruction
    if instruction is None:
        instruction = prompt.get("instruction", INSTRUCTION)
    lineage = describe_engine(settings.engine, checked.identity)
    return PreparedStudent(checked.factory, lineage, {"instruction": instruction, "template": prompt.get("template")})


def deployment_name(student: str) -> str:
    """The name of a student's deployment."""
    return f"Student-{student}"


def _student(
    name: str, make_engine: Callable[[], Engine], settings: StudentSettings, longest_seconds: float
) -> Application:
    replicas, capacity = settings.replicas, settings.max_batch
    policy = AutoscalingPolicy(
        policy_function=POLICY, policy_kwargs={"capacity": capacity, "utilization": replicas.utilization}
    )
    student = _deployment(
        StudentReplica,
        name=deployment_name(name),
        max_ongoing_requests=QUEUED_PER_PLACE * capacity,
        max_queued_requests=settings.max_queued,
        autoscaling_config=_autoscaling(replicas, capacity, policy),
        request_router_config=RequestRouterConfig(
            request_router_class=ROUTER, request_router_kwargs={"num_fallback_replicas": FALLBACK_REPLICAS}
        ),
        ray_actor_options={"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        graceful_shutdown_timeout_s=longest_seconds,
    )
    application: Application = student.bind(name, make_engine, capacity)
    return application


def _ranker(uri: str, replicas: Replicas) -> Application:
    ranker = _deployment(
        RankerReplica,
        name="Ranker",
        max_ongoing_requests=2 * BATCH,
        max_queued_requests=RANKER_QUEUE,
        autoscaling_config=_autoscaling(replicas, replicas.utilization * BATCH),
        ray_actor_options={"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
    )
    application: Application = ranker.bind(uri, "cuda" if replicas.num_gpus else "cpu", max(int(replicas.num_cpus), 1))
    return application


def _keys(settings: Settings) -> tuple[bytes, ...]:
    """The digests of the API keys. Raises UserError if there must be some and are none."""
    digests = hashed_keys()
    if not digests and settings.require_keys:
        raise UserError(f"require_keys: set {KEYS_VARIABLE} where the graph is built; on a cluster, before `ray start`")
    if not digests:
        logger.warning("anyone who reaches the endpoint may ask: %s is not set", KEYS_VARIABLE)
    return digests


def _policies(settings: Settings) -> Policies:
    confidence = settings.adaptive.confidence
    if settings.policy is None:
        return Policies.default(confidence)
    return load_policies(settings.policy, settings.rule, confidence, settings.ranker is not None)


def _within_budget(adaptive: AdaptiveSettings, policies: Policies) -> AdaptiveSettings:
    """The defaults of a request, with no more samples than a learned rule knows."""
    budget = budget_of(policies)
    if budget is None or adaptive.max_samples <= budget:
        return adaptive
    return adaptive.model_copy(update={"max_samples": budget})


def _deployment(replica: type, **options: Any) -> Any:
    """A class as a deployment. Ray's overloads do not tell what the decorator returns."""
    deployment: Any = serve.deployment(replica)
    return deployment.options(**options)


def _autoscaling(replicas: Replicas, target: float, policy: AutoscalingPolicy | None = None) -> AutoscalingConfig:
    more: dict[str, Any] = {} if policy is None else {"policy": policy}
    return AutoscalingConfig(
        min_replicas=replicas.min_replicas,
        max_replicas=replicas.max_replicas,
        target_ongoing_requests=target,
        upscale_delay_s=replicas.upscale_delay_seconds,
        downscale_delay_s=replicas.downscale_delay_seconds,
        look_back_period_s=METRICS_SECONDS,
        **more,
    )
