"""A graph on the run's Ray: two students whose engines follow a script, and a ranker that cannot be loaded."""

import functools
import socket

import pytest

from tests.fixtures.serving import ScriptedEngine

SCRIPT = {
    "agree": ["It is \\boxed{4}."],
    "slow": ["so " * 40 + "\\boxed{7}"],
    "endless": ["so " * 3000],
    "too long": ["!too_long: 9000 tokens"],
    "down": ["!down: the endpoint has not answered for 10 s"],
}


@pytest.fixture(scope="session")
def graph(ray_session):
    """The URL of the graph. Student `sluice` has two replicas, `solo` one with two places and one that waits."""
    from ray import serve

    from serve.app import PreparedStudent, assemble
    from serve.settings import Settings

    settings = Settings.model_validate(
        {
            "students": {
                "sluice": {"student": "script", "replicas": {"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.1}},
                "solo": {"student": "script", "max_batch": 1, "max_queued": 1, "replicas": {"num_cpus": 0.1}},
            },
            "ranker": "no/such/ranker",
            "ranker_replicas": {"num_cpus": 0.1},
            "ingress": {"num_cpus": 0.1},
        }
    )
    make_engine = functools.partial(ScriptedEngine, SCRIPT, seconds=0.02)
    prepared = PreparedStudent(make_engine, {"engine": "scripted", "model": "script"}, {})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(assemble(settings, dict.fromkeys(settings.students, prepared)), name="graph", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
