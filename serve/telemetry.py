"""Metrics of the graph, in Ray's registry: Prometheus scrapes them from every node, and /metrics shows them all.

Ray puts `ray_` before each name. serve/dashboard.json is a Grafana dashboard of them.
"""

from typing import Final

from ray.util.metrics import Counter, Gauge, Histogram

SECONDS: Final[list[float]] = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300]
COUNTS: Final[list[float]] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128]
TOKENS: Final[list[float]] = [30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000]


class StudentMetrics:
    """What the replicas of a student measure."""

    def __init__(self, name: str) -> None:
        tags = {"student": name}
        self._in_flight = Gauge("sluice_samples_in_flight", "Samples that replicas are drawing.", ("student",))
        self._samples = Counter("sluice_samples", "Samples, by how they ended.", ("student", "outcome"))
        self._tokens = Counter(
            "sluice_sampled_tokens", "Tokens of samples, also of cancelled ones.", ("student", "outcome")
        )
        self._seconds = Histogram("sluice_sample_seconds", "Time of a sample.", SECONDS, ("student", "outcome"))
        for metric in (self._in_flight, self._samples, self._tokens, self._seconds):
            metric.set_default_tags(tags)

    def in_flight(self, count: int) -> None:
        """The number of samples that this replica draws now."""
        self._in_flight.set(count)

    def drew(self, outcome: str, num_tokens: int, seconds: float) -> None:
        """A sample ended: finished, cancelled or failed."""
        tags = {"outcome": outcome}
        self._samples.inc(1, tags)
        if num_tokens:
            self._tokens.inc(num_tokens, tags)
        self._seconds.observe(seconds, tags)


class RankerMetrics:
    """What the replicas of the ranker measure."""

    def __init__(self) -> None:
        self._batch = Histogram("sluice_ranker_batch", "Solutions that were scored together.", COUNTS)
        self._seconds = Histogram("sluice_ranker_seconds", "Time of a batch.", SECONDS)

    def scored(self, num_solutions: int, seconds: float) -> None:
        """A batch was scored."""
        self._batch.observe(num_solutions)
        self._seconds.observe(seconds)


class IngressMetrics:
    """What the replicas of the ingress measure."""

    def __init__(self) -> None:
        self._requests = Counter("sluice_requests", "Requests, by model, kind and status.", ("model", "kind", "status"))
        self._in_flight = Gauge("sluice_requests_in_flight", "Requests that replicas of the ingress work on.")
        self._seconds = Histogram("sluice_request_seconds", "Time of a request.", SECONDS, ("model", "kind"))
        self._samples = Histogram("sluice_request_samples", "Samples that a vote counted.", COUNTS, ("model",))
        self._tokens = Histogram("sluice_request_tokens", "Tokens that a request sampled.", TOKENS, ("model", "kind"))
        self._saved = Counter("sluice_saved_tokens", "Tokens that stopping early saved, estimated.", ("model",))
        self._stops = Counter("sluice_stops", "Votes, by why sampling stopped.", ("model", "reason"))
        self._ranker = Histogram("sluice_ranker_wait_seconds", "Time a sample waits for its score.", SECONDS)

    def in_flight(self, count: int) -> None:
        """The number of requests that this replica works on now."""
        self._in_flight.set(count)

    def answered(self, model: str, kind: str, status: int, seconds: float, num_tokens: int) -> None:
        """A request ended. `kind`: vote or plain."""
        self._requests.inc(1, {"model": model, "kind": kind, "status": str(status)})
        self._seconds.observe(seconds, {"model": model, "kind": kind})
        if num_tokens:
            self._tokens.observe(num_tokens, {"model": model, "kind": kind})

    def voted(self, model: str, reason: str, num_samples: int, tokens_saved: int) -> None:
        """A vote ended."""
        self._samples.observe(num_samples, {"model": model})
        self._stops.inc(1, {"model": model, "reason": reason})
        if tokens_saved > 0:
            self._saved.inc(tokens_saved, {"model": model})

    def ranked(self, seconds: float) -> None:
        """A sample got its score, or the reason why there is none."""
        self._ranker.observe(seconds)
