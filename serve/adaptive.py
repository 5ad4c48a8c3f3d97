"""The ingress: a replica of it answers HTTP, votes, and calls students and the ranker through their handles."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve.api.protection import Admission
from serve.api.routes import create_api
from serve.handles import RankerHandle, StudentHandle
from serve.logs import join_serve_logs
from serve.metrics_page import metrics_text
from serve.policies import Policies
from serve.reading import AnswerReader
from serve.service import KnownStudent, Service
from serve.settings import AdaptiveSettings, LimitSettings
from serve.telemetry import IngressMetrics

HEALTH_SECONDS: Final = 2.0
WORKING: Final = frozenset({"HEALTHY", "UPDATING", "UPSCALING", "DOWNSCALING"})


@dataclass(frozen=True)
class IngressPlan:
    """What an ingress replica is built from, besides its handles. `lineages` belong to the students by name."""

    lineages: Mapping[str, Mapping[str, Any]]
    prompts: Mapping[str, Mapping[str, Any]]
    deployments: Mapping[str, str]  # student -> its deployment
    policies: Policies
    adaptive: AdaptiveSettings
    limits: LimitSettings
    key_digests: tuple[bytes, ...]
    answer_processes: int
    log_requests: bool


class AdaptiveIngress:
    """Answers HTTP. Ray Serve asks for the application after the constructor."""

    def __init__(
        self, plan: IngressPlan, students: dict[str, DeploymentHandle[Any]], ranker: DeploymentHandle[Any] | None
    ) -> None:
        join_serve_logs()
        metrics = IngressMetrics()
        limits = plan.limits
        self._plan = plan
        self._reader = AnswerReader(plan.answer_processes)
        self._students: dict[str, dict[str, Any]] = {}
        self._looked_at = -HEALTH_SECONDS
        self._ranker = None if ranker is None else RankerHandle(ranker)
        self._service = Service(
            students={
                name: KnownStudent(StudentHandle(name, handle), plan.lineages[name], **plan.prompts[name])
                for name, handle in students.items()
            },
            ranker=self._ranker,
            reader=self._reader,
            policies=plan.policies,
            adaptive=plan.adaptive,
            limits=limits,
            admission=Admission(plan.key_digests, limits.max_concurrent, limits.max_concurrent_per_key, metrics),
            metrics=metrics,
            started_at=int(time.time()),
            metrics_text=metrics_text,
            health=self._health,
            log_requests=plan.log_requests,
        )

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application. The processes that read answers are warm before the first request."""
        await self._reader.warm_up()
        if self._ranker is not None:
            self._learning = asyncio.create_task(self._ranker.learn())
        return create_api(self._service)

    async def _health(self) -> dict[str, Any]:
        """What Ray Serve knows of the students' deployments, at most some seconds old: probes are many."""
        if time.monotonic() - self._looked_at > HEALTH_SECONDS:
            self._looked_at = time.monotonic()
            application = serve.get_replica_context().app_name
            status = await asyncio.to_thread(serve.status)
            known = status.applications[application].deployments if application in status.applications else {}
            self._students = {
                name: _student_health(known.get(deployment)) for name, deployment in self._plan.deployments.items()
            }
        up = [each["replicas"] > 0 or each["status"] == "HEALTHY" for each in self._students.values()]
        whole = all(each["status"] in WORKING for each in self._students.values())
        return {"status": "down" if not any(up) else "ok" if whole else "degraded", "students": self._students}


def _student_health(deployment: Any) -> dict[str, Any]:
    """One unhealthy replica makes Ray Serve call the deployment unhealthy: what counts is whether any runs."""
    if deployment is None:
        return {"status": "UNKNOWN", "replicas": 0}
    states = {str(state): count for state, count in deployment.replica_states.items()}
    return {"status": str(deployment.status.value), "replicas": states.get("RUNNING", 0)}
