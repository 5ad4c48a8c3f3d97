"""The client of an endpoint against a server that fails in every way, in this process."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from actors import openai_engine
from actors.engines.openai import ATTEMPTS_OF_ONE, OpenAIEngine
from actors.engines.protocol import SampleRequest
from actors.errors import Complaint
from algorithms.row_errors import RowError
from algorithms.sampling import Sample, SamplingParams

CHAT = (("user", "What is 1 + 1?"),)


@pytest.fixture
def endpoint(monkeypatch):
    """A server that plays `script` (status, body, headers), then answers; it keeps what it was asked."""
    monkeypatch.setattr(openai_engine, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(openai_engine, "LONGEST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(openai_engine, "VERDICT_SECONDS", 2.0)

    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.asked.append((self.path, asked))
            with lock:
                server.at_once.append(server.at_once[-1] + 1)
            time.sleep(0.02)
            with lock:
                server.at_once.append(server.at_once[-1] - 1)
            status, body, headers = server.script.pop(0) if server.script else (200, None, {})
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            body = body or answer(self.path, asked)
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "content-type": "application/json",
                "content-length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.script, server.asked, server.at_once = [], [], [0]
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def answer(path, asked):
    choice = {"index": 0, "finish_reason": "stop"}
    if path.endswith("/chat/completions"):
        choice["message"] = {"role": "assistant", "content": "It is 2."}
        if asked.get("logprobs"):
            tokens = [{"token": "a", "logprob": value, "bytes": None, "top_logprobs": []} for value in (-0.5, -1.5)]
            choice["logprobs"] = {"content": tokens, "refusal": None}
    else:
        choice |= {"text": " 2.", "logprobs": {"token_logprobs": [-0.25, -0.75, -0.5]}}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "x", "object": "o", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def error(message):
    return {"error": {"message": message, "type": "t", "code": None}}


def sample(endpoint, *prompts, **settings):
    async def all_of_them():
        engine = OpenAIEngine(endpoint.url, "m", SamplingParams(stop=("END",), max_tokens=9), **settings)
        return await asyncio.gather(*(engine.sample(SampleRequest(prompt, 1 << 40 | 7)) for prompt in prompts))

    return asyncio.run(all_of_them())


def test_chats_and_texts_are_asked_with_all_settings(endpoint):
    assert sample(endpoint, CHAT) == [Sample("It is 2.", 2, "stop", -1.0)]
    assert sample(endpoint, "1 + 1 =") == [Sample(" 2.", 2, "stop", -0.5)]
    (chat_path, chat), (text_path, text) = endpoint.asked
    assert (chat_path, text_path) == ("/v1/chat/completions", "/v1/completions")
    assert chat == {
        "model": "m", "messages": [{"role": "user", "content": "What is 1 + 1?"}], "temperature": 0.7, "top_p": 1.0,
        "max_tokens": 9, "stop": ["END"], "seed": 7, "logprobs": True,
    }  # fmt: skip
    assert (text["prompt"], text["logprobs"]) == ("1 + 1 =", 0)


def test_what_passes_is_waited_for_and_nothing_is_lost(endpoint):
    endpoint.script = [
        (503, error("down"), {}), (429, error("slow down"), {"retry-after": "0.01"}), (0, None, {}),
        (500, error("oops"), {}), (408, error("late"), {}), (409, error("busy"), {}),
    ]  # fmt: skip
    assert sample(endpoint, *[CHAT] * 5) == [Sample("It is 2.", 2, "stop", -1.0)] * 5
    assert len(endpoint.asked) == 11


def test_an_answer_that_is_none_is_asked_for_again(endpoint):
    aborted = answer("/completions", {}) | {"choices": [{"index": 0, "finish_reason": "abort", "text": ""}]}
    endpoint.script = [(200, {"error": {"message": "upstream"}}, {}), (200, aborted, {}), (200, "<html>", {})]
    assert sample(endpoint, CHAT) == [Sample("It is 2.", 2, "stop", -1.0)]
    assert len(endpoint.asked) == 4


def test_a_prompt_that_is_never_answered_is_the_rows_fault(endpoint):
    endpoint.script = [(200, answer("/completions", {}) | {"choices": []}, {})] * ATTEMPTS_OF_ONE
    with pytest.raises(RowError, match="engine_error: an answer with no choices in it"):
        sample(endpoint, CHAT)
    assert len(endpoint.asked) == ATTEMPTS_OF_ONE


def test_an_endpoint_that_refuses_everything_is_not_the_rows_fault(endpoint):
    endpoint.script = [(400, error("unknown parameter max_tokens"), {})] * 100
    prompts = [(("user", f"What is {number}?"),) for number in range(5)]
    with pytest.raises(Complaint, match=r"refuses every request: .*max_tokens"):
        sample(endpoint, *prompts)


def test_an_endpoint_that_stays_away_ends_the_run_with_one_line(endpoint):
    endpoint.script = [(503, error("down"), {})] * 1000
    with pytest.raises(Complaint, match=r"has not answered for .* the same command goes on"):
        sample(endpoint, CHAT, patience_seconds=0.2)


def test_a_refused_prompt_is_the_rows_fault_and_a_refused_key_is_not(endpoint):
    endpoint.script = [(400, error("context length exceeded"), {})]
    with pytest.raises(RowError, match=r"refused: .*context length"):
        sample(endpoint, CHAT)
    endpoint.script = [(401, error("no such key"), {})]
    with pytest.raises(Complaint, match=r"says no: .*no such key"):
        sample(endpoint, CHAT)


def test_an_endpoint_without_log_probabilities_is_asked_without(endpoint):
    endpoint.script = [(400, error("logprobs are not supported"), {})]
    assert sample(endpoint, CHAT) == [Sample("It is 2.", 2, "stop", None)]
    assert ["logprobs" in asked for _, asked in endpoint.asked] == [True, False]


def test_no_more_requests_at_once_than_asked_for(endpoint):
    assert len(sample(endpoint, *[CHAT] * 20, concurrency=3)) == 20
    assert 1 < max(endpoint.at_once) <= 3
