"""The nodes of the cluster, and what a worker's own can see. Without Ray there is one nameless node, which lives."""

from collections.abc import Iterable
from pathlib import Path

import ray

from actors.runs.folder import RunFolder


def this_node() -> str:
    """The id of this process's node."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def this_actor() -> str:
    """This process as a log names it: its actor, and its node."""
    if not ray.is_initialized():
        return "this process"
    context = ray.get_runtime_context()
    return f"actor {context.get_actor_id() or 'none'} on node {context.get_node_id()}"


def dead_nodes() -> frozenset[str]:
    """The ids of the nodes that left the cluster: failed, taken away or drained."""
    if not ray.is_initialized():
        return frozenset()
    return frozenset(node["NodeID"] for node in ray.nodes() if not node["Alive"])


def missing_path(paths: Iterable[str]) -> str | None:
    """The first of these paths that this node cannot see, if there is one."""
    return next((path for path in paths if not Path(path).exists()), None)


def output_unseen(output: RunFolder, session: str) -> str | None:
    """What keeps this node from the run that `session` has begun, in words that the path follows; None if nothing."""
    try:
        seen = output.session.read_bytes().decode()
    except FileNotFoundError:
        return "cannot see"
    except OSError as error:
        return f"cannot read ({' '.join(str(error).split())})"
    return None if seen == session else "has another folder at"
