"""Bad requests to the API in this process: the quick version of tests.benchmarks.serve_fuzz."""

import socket
import threading
import time

import pytest
import uvicorn

from tests.benchmarks import serve_fuzz
from tests.fixtures.page_server import answer_reader

REQUESTS = 300


@pytest.fixture
def url():
    with answer_reader() as reader, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(serve_fuzz.make_app(reader), log_level="critical", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def test_bad_requests_are_refused_in_the_shape_of_openai_and_leave_nothing(url):
    sender = serve_fuzz.Sender(url)
    serve_fuzz.rounds(url, sender, lambda: sender.num_refused >= REQUESTS, examples=20)
    assert sender.faults == []
    assert set(sender.statuses) >= {200, 400, 404, 405}
    assert sender.in_flight() == {"requests_in_flight": 0, "samples_in_flight": 0}
