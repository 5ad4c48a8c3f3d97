"""The client of an endpoint against a server that fails in every way, in this process."""

import asyncio
import json
import threading
import time
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from actors.engines import openai as openai_engine
from actors.engines.openai import ATTEMPTS_OF_ONE, OpenAIEngine
from actors.engines.protocol import Piece, SampleRequest
from actors.errors import UserError
from algorithms.row_errors import RowError
from algorithms.sampling import Sample, SamplingParams

CHAT = (("user", "What is 1 + 1?"),)
PARAMS = SamplingParams(stop=("END",), max_tokens=9, seed=1 << 40 | 7)
HANG = "hang"  # instead of a body, or among the events of a stream: wait until the client hangs up
BREAK = "break"  # among the events of a stream: close the connection before the end


@pytest.fixture
def endpoint(monkeypatch):
    """A server that plays `script` (status, body, headers), then answers; it keeps what it was asked.

    The body of a stream is the list of its events.
    """
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
            if body == HANG:
                self.wait_for_the_client()
                return
            if status == 200 and asked.get("stream"):
                self.send_events(body or events(self.path, asked))
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

        def send_events(self, body):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            if BREAK in body:
                self.send_header("content-length", "1000000")
            self.end_headers()
            for event in body:
                if event == BREAK:
                    return
                if event == HANG:
                    self.wait_for_the_client()
                    return
                self.wfile.write(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

        def wait_for_the_client(self):
            if self.connection.recv(1) == b"":
                server.hung_up.set()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.script, server.asked, server.at_once = [], [], [0]
    server.hung_up = threading.Event()
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


def chunk(path="/chat/completions", text=None, logprobs=(), finish_reason=None):
    """An event of a stream."""
    choice = {"index": 0, "finish_reason": finish_reason}
    if path.endswith("/chat/completions"):
        choice["delta"] = {} if text is None else {"role": "assistant", "content": text}
        tokens = [{"token": "a", "logprob": value, "bytes": None, "top_logprobs": []} for value in logprobs]
        choice["logprobs"] = {"content": tokens, "refusal": None} if tokens else None
    else:
        choice |= {"text": text or "", "logprobs": {"token_logprobs": list(logprobs)} if logprobs else None}
    return {"id": "x", "object": "o", "created": 0, "model": "m", "choices": [choice]}


def events(path, asked):
    """The events of a streamed answer, with the text and the tokens of `answer`."""
    whole = answer(path, asked)
    if path.endswith("/chat/completions"):
        texts = [("", []), ("It", [-0.5]), (" is", [-1.5]), (" 2.", [])]
    else:
        texts = [(" ", [-0.25]), ("2", [-0.75]), (".", [-0.5])]
    found = [chunk(path, text, logprobs if "logprobs" in asked else ()) for text, logprobs in texts]
    found.append(chunk(path, finish_reason="stop"))
    usage = {"choices": [], "usage": whole["usage"]} if asked["stream_options"]["include_usage"] else None
    return [*found, whole | usage] if usage else found


def error(message):
    return {"error": {"message": message, "type": "t", "code": None}}


def sample(endpoint, *prompts, params=PARAMS, **settings):
    async def all_of_them():
        engine = OpenAIEngine(endpoint.url, "m", **settings)
        return await asyncio.gather(*(engine.sample(SampleRequest(prompt, params)) for prompt in prompts))

    return asyncio.run(all_of_them())


def stream(endpoint, prompt, **settings):
    async def pieces():
        engine = OpenAIEngine(endpoint.url, "m", **settings)
        return [piece async for piece in engine.stream(SampleRequest(prompt, PARAMS))]

    return asyncio.run(pieces())


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
    with pytest.raises(RowError, match="engine_error: a reply with an empty list of choices"):
        sample(endpoint, CHAT)
    assert len(endpoint.asked) == ATTEMPTS_OF_ONE


def test_an_endpoint_that_refuses_everything_is_not_the_rows_fault(endpoint):
    endpoint.script = [(400, error("unknown parameter max_tokens"), {})] * 100
    prompts = [(("user", f"What is {number}?"),) for number in range(5)]
    with pytest.raises(UserError, match=r"refuses every request: .*max_tokens"):
        sample(endpoint, *prompts)


def test_an_endpoint_that_stays_away_ends_the_run_with_one_line(endpoint):
    endpoint.script = [(503, error("down"), {})] * 1000
    with pytest.raises(UserError, match=r"has not answered for .* repeat the command to resume the run"):
        sample(endpoint, CHAT, patience_seconds=0.2)


@pytest.mark.parametrize("ask", [sample, stream])
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_prompt_is_the_rows_fault(endpoint, ask, status, monkeypatch):
    monkeypatch.setattr(openai_engine, "VERDICT_SECONDS", 0.1)  # no other request is asked
    endpoint.script = [(status, error("context length exceeded"), {})]
    with pytest.raises(RowError, match=r"refused: .*context length"):
        ask(endpoint, CHAT)


@pytest.mark.parametrize("ask", [sample, stream])
def test_a_refused_key_ends_the_run(endpoint, ask):
    endpoint.script = [(401, error("no such key"), {})]
    with pytest.raises(UserError, match=r"refuses access: .*no such key"):
        ask(endpoint, CHAT)


def test_an_endpoint_without_log_probabilities_is_asked_without(endpoint):
    endpoint.script = [(400, error("logprobs are not supported"), {})]
    assert sample(endpoint, CHAT) == [Sample("It is 2.", 2, "stop", None)]
    assert ["logprobs" in asked for _, asked in endpoint.asked] == [True, False]


def test_no_more_requests_at_once_than_asked_for(endpoint):
    assert len(sample(endpoint, *[CHAT] * 20, concurrency=3)) == 20
    assert 1 < max(endpoint.at_once) <= 3


def test_each_request_is_asked_with_its_own_parameters(endpoint):
    many = [SamplingParams(0, 0.5, 3, ("a", "b"), 1), SamplingParams(1.5, 1.0, 20, (), 2)]

    async def together():
        engine = OpenAIEngine(endpoint.url, "m")
        await asyncio.gather(*(engine.sample(SampleRequest(CHAT, params)) for params in many))

    asyncio.run(together())
    names = ("temperature", "top_p", "max_tokens", "stop", "seed")
    found = sorted((tuple(asked.get(name) for name in names) for _, asked in endpoint.asked), key=lambda each: each[0])
    assert found == [(0, 0.5, 3, ["a", "b"], 1), (1.5, 1.0, 20, None, 2)]


@pytest.mark.parametrize("reply", ["sample", "stream"])
def test_a_filtered_answer_is_refused(endpoint, reply):
    choice = {"index": 0, "finish_reason": "content_filter", "message": {"role": "assistant", "content": ""}}
    filtered = answer("/chat/completions", {}) | {"choices": [choice]}
    endpoint.script = [(200, filtered if reply == "sample" else [chunk(finish_reason="content_filter")], {})]
    with pytest.raises(RowError, match="refused: the endpoint's content filter"):
        (sample if reply == "sample" else stream)(endpoint, CHAT)


# --- streams


def test_a_chat_is_streamed_as_it_is_sampled(endpoint):
    [expected] = sample(endpoint, CHAT)
    last = Piece("", expected.num_tokens, expected)
    assert stream(endpoint, CHAT) == [Piece("It", 1), Piece(" is", 2), Piece(" 2.", 2), last]
    (sample_path, sampled), (stream_path, streamed) = endpoint.asked
    assert stream_path == sample_path
    assert streamed == sampled | {"stream": True, "stream_options": {"include_usage": True}}


def test_a_text_is_streamed_as_it_is_sampled(endpoint):
    [expected] = sample(endpoint, "1 + 1 =")
    last = Piece("", expected.num_tokens, expected)
    assert stream(endpoint, "1 + 1 =") == [Piece(" ", 1), Piece("2", 2), Piece(".", 3), last]
    (sample_path, _), (stream_path, _) = endpoint.asked
    assert stream_path == sample_path


def test_a_piece_comes_before_the_stream_ends(endpoint):
    endpoint.script = [(200, [chunk(text="It"), HANG], {})]

    async def first_piece():
        async with aclosing(OpenAIEngine(endpoint.url, "m").stream(SampleRequest(CHAT, PARAMS))) as pieces:
            return await anext(pieces)

    assert asyncio.run(first_piece()) == Piece("It", 1)


def test_a_stream_without_usage_counts_the_log_probabilities(endpoint):
    chunks = [chunk(text="It", logprobs=[-0.5, -0.1]), chunk(text=".", logprobs=[-0.3]), chunk(finish_reason="length")]
    endpoint.script = [(200, chunks, {})]
    *_, last = stream(endpoint, CHAT)
    assert last.sample == Sample("It.", 3, "length", pytest.approx(-0.3))


def test_a_stream_is_opened_again_after_what_passes(endpoint):
    endpoint.script = [(503, error("down"), {}), (0, None, {}), (429, error("slow down"), {})]
    assert stream(endpoint, CHAT)[-1].sample == Sample("It is 2.", 2, "stop", -1.0)
    assert len(endpoint.asked) == 4


def test_an_endpoint_without_log_probabilities_streams_without(endpoint):
    endpoint.script = [(400, error("logprobs are not supported"), {})]
    assert stream(endpoint, CHAT)[-1].sample == Sample("It is 2.", 2, "stop", None)


@pytest.mark.parametrize(
    "ending",
    [
        [],
        [BREAK],
        [error("upstream")],
        ["{no json"],
        [chunk(finish_reason="abort")],
    ],
    ids=["without its end", "connection lost", "an error event", "no JSON", "unknown finish reason"],
)
def test_a_stream_that_breaks_off_is_the_rows_error(endpoint, ending):
    endpoint.script = [(200, [chunk(text="It"), *ending], {})]
    with pytest.raises(RowError, match="engine_error: "):
        stream(endpoint, CHAT)
    assert len(endpoint.asked) == 1  # its first piece is out, so it is not asked for again


# --- cancelled calls


async def read(engine):
    async with aclosing(engine.stream(SampleRequest(CHAT, PARAMS))) as pieces:
        async for _ in pieces:
            pass


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (lambda engine: engine.sample(SampleRequest(CHAT, PARAMS)), HANG),
        (read, HANG),
        (read, [chunk(text="It"), HANG]),
    ],
    ids=["sample", "stream before its first event", "stream"],
)
def test_a_cancelled_call_hangs_up_and_leaves_its_place(endpoint, call, body):
    endpoint.script = [(200, body, {})]

    async def cancel():
        engine = OpenAIEngine(endpoint.url, "m", concurrency=1)
        task = asyncio.create_task(call(engine))
        while not endpoint.asked or endpoint.script:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # so that a stream has its first event
        assert not endpoint.hung_up.is_set()
        task.cancel()
        next_sample = await engine.sample(SampleRequest(CHAT, PARAMS))
        return await asyncio.to_thread(endpoint.hung_up.wait, 5), task.cancelled(), next_sample

    assert asyncio.run(cancel()) == (True, True, Sample("It is 2.", 2, "stop", -1.0))


def test_a_stream_that_is_left_hangs_up_and_leaves_its_place(endpoint):
    endpoint.script = [(200, [chunk(text="It"), HANG], {})]

    async def leave():
        engine = OpenAIEngine(endpoint.url, "m", concurrency=1)
        async with aclosing(engine.stream(SampleRequest(CHAT, PARAMS))) as pieces:
            await anext(pieces)
        return await asyncio.to_thread(endpoint.hung_up.wait, 5), await engine.sample(SampleRequest(CHAT, PARAMS))

    assert asyncio.run(leave()) == (True, Sample("It is 2.", 2, "stop", -1.0))
