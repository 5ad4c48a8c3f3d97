"""How students scale: on samples in flight, which are what fills a replica, and not on requests.

A vote is one request and up to 16 samples; each sample is a call of its own to the student, so the calls that run and
wait are the samples in flight. A replica tells its own capacity (`StudentReplica.record_autoscaling_stats`), because
the engine knows it and the configuration may not.
"""

import math
from typing import Any

from ray.serve.config import AutoscalingContext


class SamplesInFlight:
    """Ray Serve's policy for a student: enough replicas that each is used to `utilization` of its capacity.

    `capacity` is assumed until a replica has told its own. Delays and bounds are Ray Serve's.
    """

    def __init__(self, capacity: float, utilization: float) -> None:
        self._capacity = capacity
        self._utilization = utilization

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas that the samples in flight need."""
        told = list((context.aggregated_metrics or {}).get("capacity", {}).values())
        capacity = sum(told) / len(told) if told else self._capacity
        return replicas_for(context.total_num_requests, capacity, self._utilization), {}


def replicas_for(num_samples: float, capacity: float, utilization: float) -> int:
    """Replicas for so many samples in flight, each with `capacity` places filled to `utilization`; 0 for none."""
    return math.ceil(round(num_samples / (capacity * utilization), 6))
