"""10,000 bad requests to the API: none is answered with status 500, and nothing of them stays.

    python -m tests.benchmarks.serve_fuzz
    python -m tests.benchmarks.serve_fuzz --requests 300

The API runs on a scripted engine in a process of its own, behind uvicorn and without Ray. Three kinds of requests take
turns until so many were refused: schemathesis breaks the OpenAPI schema, or keeps to it with values at its limits, and
a list made by hand breaks JSON, Unicode, HTTP and connections. Every reply must have a documented status, every error
OpenAI's shape. Measured: the server's memory after the first 1,000 requests and at the end, and what is then in flight.
"""

import argparse
import asyncio
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from contextlib import contextmanager, suppress
from dataclasses import replace
from urllib.parse import urlsplit

import hypothesis
import psutil
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from serve.api.routes import MEANINGS, create_api
from serve.reading import AnswerReader
from tests.benchmarks.measured import write_result
from tests.fixtures.runs import ROOT
from tests.fixtures.serving import ScriptedEngine, make_service

CHAT = "/v1/chat/completions"
WARM_UP = 1000
LONGEST_SECONDS = 60.0  # until what is in flight has ended
EXAMPLES = 40  # of one operation in one round
DOCUMENTED = {200, *MEANINGS} - {500}
SCRIPT = {
    "slow": ["word " * 2000],
    "letters": ["(B)", "B", "(C)", "none"],
    "broken": ["!engine_error: broken"],
    "flaky": ["!engine_error: broken", "\\boxed{3}"],
    "too long": ["!too_long: 9000 tokens"],
    "down": ["!down: the endpoint has not answered for 10 s"],
}
LIMITS = {"max_body_bytes": 1 << 16, "max_concurrent": 32, "max_prompt_characters": 20_000}


# --- the server


def make_app(reader):
    """The API, whose /healthz tells how many samples are drawn now."""
    engine = ScriptedEngine(SCRIPT, prompts=deque(maxlen=1), params=deque(maxlen=1), seconds=0.0005)

    async def health():
        return {"status": "ok", "samples_in_flight": engine.running}

    return create_api(replace(make_service(engine, reader=reader, limits=LIMITS), health=health))


@contextmanager
def server():
    """The API in a process of its own: its URL and the process."""
    command = [sys.executable, "-m", "tests.benchmarks.serve_fuzz", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(10)


def listen(port):
    """Serve until terminated. Prints the port."""
    config = uvicorn.Config(make_app(AnswerReader(1)), port=port, log_level="critical", timeout_graceful_shutdown=1)
    instance = uvicorn.Server(config)

    async def tell():
        while not instance.started:
            await asyncio.sleep(0.01)
        print(instance.servers[0].sockets[0].getsockname()[1], flush=True)

    async def both():
        await asyncio.gather(instance.serve(), tell())

    asyncio.run(both())


# --- what is sent


def operations(url, known_model):
    """The operations of the API's schema. `known_model`: requests name a model that there is."""
    schema = requests.get(f"{url}/openapi.json", timeout=30).json()
    for path in schema["paths"].values():
        for operation in path.values():
            del operation["responses"]  # replies are checked here
    if known_model:
        for name in ("ChatRequest", "CompletionRequest"):
            schema["components"]["schemas"][name]["properties"]["model"] = {"const": "sluice"}
    found = schemathesis.openapi.from_dict(schema).get_all_operations()
    return [each.ok() for each in found]


def generate(operation, mode, number, seed, send):
    """Send `number` requests to an operation, as the schema wants them or not."""

    @hypothesis.seed(seed)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def each(case):
        send(case)

    try:
        each()
    except Unsatisfiable:  # an operation without anything to break
        return


def chat(**fields):
    return json.dumps({"model": "sluice", "messages": [{"role": "user", "content": "x"}], "seed": 7} | fields).encode()


def with_field(text):
    """A chat with one more field, written as it stands."""
    return chat()[:-1] + b", " + text.encode("utf-8", "surrogatepass") + b"}"


def bad_bodies():
    deep = 30_000
    yield from (b"", b"{", b"null", b"[]", b'"x"', b"0", b"\xff\xfe", b"\xef\xbb\xbf" + chat(), b"{}" * 2, b"'")
    yield from (chat().decode().encode(encoding) for encoding in ("utf-16", "utf-32", "utf-16-be", "utf-7"))
    yield from (b'{"model": "\xff"}', b'{"model": "\xed\xa0\x80"}', b'{"model": "sluice\x00"}', b'{"model": "\\u0000"}')
    yield from (b"[" * deep, b'{"a":' * (deep // 3), b"[" * deep + b"]" * deep)
    for name in ("metadata", "tools", "logit_bias", "messages", "adaptive", "stop", "nothing"):
        yield with_field(f'"{name}": {"[" * 20_000}{"]" * 20_000}')
        yield with_field(f'"{name}": ' + '{"a":' * 5000 + "1" + "}" * 5000)
    numbers = (
        "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9" * 5000, "-" + "9" * 5000, "1" + "0" * 400, "0.1e-400",
        "9223372036854775808", "-9223372036854775809", "1.5", "-0", "-0.0", "1E400", "true", '"3"', "[]", "{}", "0x10",
        "1_000", "01", ".5", "null",
    )  # fmt: skip
    names = (
        "temperature", "top_p", "max_tokens", "n", "seed", "max_completion_tokens", "stream", "presence_penalty",
        "top_logprobs", "logprobs",
    )  # fmt: skip
    for name in names:
        yield from (with_field(f'"{name}": {number}') for number in numbers)
    for name in ("max_samples", "min_samples", "parallel", "confidence", "max_total_tokens", "deadline_seconds"):
        yield from (with_field(f'"adaptive": {{"{name}": {number}}}') for number in numbers)
    for half in ("\\ud800", "\\udfff", "\ud800", "\\ud83d x"):
        yield from (
            with_field(f'"{half}": 1'),
            with_field(f'"stop": "{half}"'),
            with_field(f'"user": "{half}"'),
            with_field(f'"adaptive": {{"{half}": 1}}'),
            with_field(f'"adaptive": {{"answer": {{"kind": "{half}"}}}}'),
            with_field(f'"adaptive": {{"answer": {{"kind": "json", "field": "{half}"}}}}'),
            f'{{"model": "{half}", "messages": []}}'.encode("utf-8", "surrogatepass"),
            with_field(f'"messages": [{{"role": "{half}", "content": "{half}"}}]'),
        )
    yield from (with_field('"model": "other"'), with_field('"n": 2, "n": 3'), with_field('"seed": 7, "seed": "7"'))
    yield from (chat(model="x" * 60_000), chat(model=""), chat(model="x" * 501), chat(user="x" * 70_000))
    yield from (
        chat(stop=["x"] * 17),
        chat(stop=[""]),
        chat(stop=[["x"]]),
        chat(**{"x" * 30_000: 1}),
        chat(n=64, stop="x"),
    )
    yield from (chat(messages=messages) for messages in bad_messages())
    kinds = ("choice", "text", "json", "number", "poem", None, 3, "")
    yield from (
        chat(adaptive={"answer": {"kind": kind, "field": field}}) for kind in kinds for field in (None, "a..b", ".")
    )
    for question in SCRIPT:
        yield chat(
            messages=[{"role": "user", "content": question}], adaptive={"max_samples": 2, "deadline_seconds": 0.05}
        )
        yield chat(messages=[{"role": "user", "content": question}], max_tokens=5, n=3, stream=True)


def bad_messages():
    user = {"role": "user", "content": "x"}
    yield from ([], None, "x", [None], [[]], [user] * 2000, [{"role": "user"}], [{"content": "x"}], {"0": user})
    yield from ([user | {"content": content}] for content in (None, 1, [], {}, [{}], [{"type": "text"}], ["x"], True))
    yield from ([user | {"role": role}] for role in ("tool", "function", "", None, 1, "USER", "user\n", "\x00"))
    yield [user, {"role": "assistant", "content": "so"}]
    yield [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]
    yield from (
        [user | {"content": text}] for text in ("\x00", "\u202e\u2066", "\\boxed{" * 4000, "$" * 9999, "x" * 20_001)
    )


def hostile_texts():
    """Texts whose answers would be computed for ever. Each costs a process that reads answers its life."""
    for text in ("9^{" * 300 + "9" + "}" * 300, "9^{9^{9^{9^9}}}", "10^{10^{10}}!", "\\sqrt{" * 200 + "2" + "}" * 200):
        yield chat(messages=[{"role": "user", "content": f"\\boxed{{{text}}}"}], adaptive={"max_samples": 2})


def raw(method, path, headers=(), body=b"", *, length=True):
    """A request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    lines += [f"{name}: {value}" for name, value in headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


JSON = ("Content-Type", "application/json")


def bad_requests():
    """Whole requests, which are answered at once."""
    yield from (raw("POST", CHAT, [JSON], body) for body in bad_bodies())
    types = (
        "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "a/b/c", ";;",
        "multipart/form-data", "application/json; charset=utf-16", "application/xml", "application/octet-stream",
        "", "\xff/\xff", "application/", "application/x-ndjson", "application/vnd.api+json", "text/event-stream",
        "application/json" * 500,
    )  # fmt: skip
    for kind in types:
        yield raw("POST", CHAT, [("Content-Type", kind)], chat(model="none"))
        yield raw("POST", "/v1/completions", [("Content-Type", kind)], b"--x\r\n\r\n--x--")
    yield raw("POST", CHAT, [], chat(model="none"))
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "GET", "PROPFIND", "M-SEARCH"):
        for path in (CHAT, "/v1/models", "/healthz", "/metrics", "/", "/docs", "/page/render", "*"):
            yield raw(method, path, [JSON], b"{}")
    paths = (
        "//", "/v1/../../etc/passwd", "/v1/models/%ff%fe", "/v1/models/%00", "/v1/models/" + "x" * 8000, "/v1/models/",
        "/page/..%2f..%2fetc%2fpasswd", "/page/../app.py", "/page/%2e%2e/app.py", "/page/x", "/v1//chat/completions",
        "/v1/models/a/b/c", "/%", "/%zz", "/v1/models/%ed%a0%80", "/openapi.json/", "/V1/MODELS", CHAT + "/", "/;",
        CHAT + "?x=1", "/v1/models?" + "x=1&" * 3000, "/v1/models/\xff", "/?\xff", "http://other/v1/models/x",
        "/v1/completions/x",
    )  # fmt: skip
    for path in paths:
        yield raw("GET", path)
        yield raw("POST", path, [JSON], b"{")
    abused = (
        ("X-Request-ID", "x" * 5000), ("X-Request-ID", "\xff\xfe"), ("X-Request-ID", "a b\tc"), ("Authorization", ""),
        ("Authorization", "Bearer " + "x" * 9000), ("Authorization", "Basic \xff"), ("Authorization", "Bearer"),
        ("Cookie", "x" * 9000), ("Accept", "text/html"), ("Accept-Encoding", "gzip, br, x"), ("Range", "bytes=5-1"),
        ("Content-Encoding", "gzip"), ("X-Forwarded-For", "::1, \xff"), ("Forwarded", "for=" + '"' * 99),
        ("Host", "x" * 999), ("X-HTTP-Method-Override", "DELETE"), ("Expect", "100-continue"), ("Expect", "200-ok"),
        ("Traceparent", "00-x-y-z"), ("Traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-ff"), ("Te", "trailers"),
        ("Tracestate", "=" * 999), ("Baggage", "%" * 999), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site"),
        ("Keep-Alive", "timeout=-1"), ("If-Match", "*"), ("Serve_Multiplexed_Model_Id", "\xff"), ("Upgrade", "h2c"),
        ("X-Session-Id", "x" * 4000),
    )  # fmt: skip
    for header in abused:
        yield raw("POST", CHAT, [JSON, header], b'{"model": "none", "messages": [')
        yield raw("GET", "/v1/models/none", [header])
    yield raw("GET", "/v1/models/none", [(f"X-{number}", "y") for number in range(300)])
    chunks = b"5\r\n" + chat()[:5] + b"\r\n"
    yield raw("POST", CHAT, [JSON, ("Transfer-Encoding", "chunked")], chunks + b"0\r\n\r\n", length=False)
    yield raw(
        "POST", CHAT, [JSON, ("Transfer-Encoding", "chunked")], (b"400\r\n" + b" " * 1024 + b"\r\n") * 80, length=False
    )
    yield raw("POST", CHAT, [JSON, ("Content-Length", str(10**12))], b"{", length=False)
    yield raw("POST", CHAT, [JSON, ("Content-Length", "9" * 400)], b"{", length=False)
    yield raw("POST", "/page/render", [JSON], b'{"text": "' + b"$\\\\frac{" * 2400 + b'"}')
    yield raw("POST", "/page/render", [JSON], json.dumps({"text": "$" + "{" * 9000 + "}" * 9000 + "$"}).encode())


def no_http():
    """What the HTTP server refuses itself, or drops; connections that end early; requests that share one."""
    yield from (
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 99,
    )
    yield from (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x" * 200_000,
        b"A" * 70_000,
        b"GET /\xff HTTP/1.1\r\n\r\n",
    )
    lengths = ("-1", "abc", "1, 2", "+1", "0x10", "")
    yield from (raw("POST", CHAT, [JSON, ("Content-Length", value)], b"{}", length=False) for value in lengths)
    yield raw("POST", CHAT, [JSON, ("Content-Length", "2"), ("Content-Length", "3")], b"{}", length=False)
    yield raw("POST", CHAT, [JSON, ("Transfer-Encoding", "chunked")], b"{}")
    yield raw("POST", CHAT, [JSON, ("Transfer-Encoding", "chunked")], b"zz\r\n{}\r\n0\r\n\r\n", length=False)
    yield raw("POST", CHAT, [JSON, ("Transfer-Encoding", "gzip, identity")], b"{}", length=False)
    yield raw("GET", "/v1/models", [("X y", "z"), ("\x00", "y")])
    yield raw("GET", CHAT, [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
                            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")])  # fmt: skip
    slow = {"messages": [{"role": "user", "content": "slow"}], "max_tokens": 2000}
    for body in (chat(**slow), chat(**slow, stream=True), chat(**slow, n=8), chat(**slow, adaptive=False, stream=True)):
        whole = raw("POST", CHAT, [JSON], body)
        yield whole  # and gone before the answer
        yield whole[: len(whole) // 2]
        yield whole * 3  # pipelined
        yield whole + b"GET / HTTP/1.1\r\n\r\n" + b"\xff" * 50
    yield raw("GET", "/v1/models/none") * 20


# --- what comes back


class Sender:
    """Sends requests, and judges the replies."""

    def __init__(self, url):
        self._url = url
        self._address = (urlsplit(url).hostname, urlsplit(url).port)
        self._session = requests.Session()
        self.statuses = Counter()
        self.faults = []
        self.num_sent = 0
        self.num_unsendable = 0

    @property
    def num_refused(self):
        return sum(count for status, count in self.statuses.items() if status >= 400)

    def case(self, case):
        """A request of schemathesis."""
        try:
            reply = case.call(base_url=self._url, session=self._session, timeout=60)
        except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError, ValueError):
            self.num_unsendable += 1
            return
        content_type = (reply.headers.get("content-type") or [""])[0]
        self._judge(reply.status_code, content_type, reply.content, reply.request.method, case.as_curl_command)

    def bytes(self, request):
        """A request that must be answered."""
        with socket.create_connection(self._address, timeout=60) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # answered before all was sent
                connection.sendall(request)
            reply = http.client.HTTPResponse(connection, method=request.split(b" ", 1)[0].decode())
            try:
                reply.begin()
                body = reply.read()
            except (http.client.HTTPException, OSError) as error:
                self.faults.append(f"no reply: {error!r} to {request[:300]!r}")
                return
        if body == b"Invalid HTTP request received.":
            self.statuses[400] += 1  # uvicorn's, before the API
            self.num_sent += 1
            return
        self._judge(reply.status, reply.headers.get("content-type", ""), body, "", lambda: repr(request[:300]))

    def leave(self, request):
        """Something that may be answered or not; the connection ends before."""
        connection = socket.create_connection(self._address, timeout=60)
        with connection, suppress(TimeoutError, ConnectionError):
            connection.sendall(request)
            connection.settimeout(random.choice((0.001, 0.02, 0.1)))
            connection.recv(1000)
        self.num_sent += 1

    def _judge(self, status, content_type, body, method, told):
        self.num_sent += 1
        self.statuses[status] += 1
        fault = fault_of(status, content_type, body, method)
        if fault is not None:
            self.faults.append(f"{fault}: {status} {body[:200]!r} to {told()[:600]}")

    def in_flight(self):
        """Requests and samples that the server still works on in the end.

        uvicorn alone does not cancel a request whose client left, as Ray Serve does: it is worked on until its end.
        """
        until = time.monotonic() + LONGEST_SECONDS
        while True:
            facts = requests.get(f"{self._url}/healthz", timeout=30).json()
            if not facts["requests_in_flight"] + facts["samples_in_flight"] or time.monotonic() > until:
                break
            time.sleep(0.1)
        return {name: facts[name] for name in ("requests_in_flight", "samples_in_flight")}


def fault_of(status, content_type, body, method):
    """What is wrong with a reply, None if nothing is."""
    if status not in DOCUMENTED:
        return "a status that is not documented"
    if status < 400 or method == "HEAD":
        return None
    if content_type != "application/json":
        return f"an error of type {content_type}"
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return "an error that is not in OpenAI's shape"
    texts = isinstance(error["message"], str) and error["message"] and isinstance(error["type"], str)
    options = all(error[name] is None or isinstance(error[name], str) for name in ("param", "code"))
    return None if set(error) == {"message", "type", "param", "code"} and texts and options else "a field of the error"


def rounds(url, sender, enough, examples=EXAMPLES):
    """Send bad requests, round after round, until `enough()`. The list made by hand is gone through in random order."""
    by_hand = [*((sender.bytes, each) for each in bad_requests()), *((sender.leave, each) for each in no_http())]
    chance, left = random.Random(1), []
    for number in range(10**6):
        for operation in operations(url, known_model=number % 2 == 0):
            mode = GenerationMode.POSITIVE if number % 4 == 3 else GenerationMode.NEGATIVE
            count = examples if operation.method.upper() == "POST" else max(1, examples // 10)
            generate(operation, mode, count, number, sender.case)
            if not left:
                left = chance.sample(by_hand, len(by_hand))
            for _ in range(min(examples // 2, len(left))):
                send, request = left.pop()
                send(request)
            if enough():
                return


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="requests that must be refused")
    parser.add_argument("--port", type=int, help="be the server")
    flags = parser.parse_args()
    if flags.port is not None:
        listen(flags.port)
        return
    results = run(flags.requests)
    print(write_result("serve_fuzz", results).read_text())
    assert not results["faults"], results["faults"]


def run(number):
    """The numbers of so many refused requests."""
    with server() as (url, process):
        sender = Sender(url)
        memory = {}

        def megabytes():
            return round(process.memory_info().rss / 2**20)

        def enough():
            for at in (WARM_UP, *range(WARM_UP, number, max(number // 10, 1))):
                if sender.num_sent >= at and at not in memory:
                    memory[at] = megabytes()
            return sender.num_refused >= number

        began = time.monotonic()
        for body in hostile_texts():
            sender.bytes(raw("POST", CHAT, [JSON], body))
        rounds(url, sender, enough)
        took = time.monotonic() - began
        in_flight = sender.in_flight()
        return {
            "sent": sender.num_sent,
            "refused": sender.num_refused,
            "statuses": {str(status): count for status, count in sorted(sender.statuses.items())},
            "not_sendable": sender.num_unsendable,
            "faults": sorted({re.sub(r"\d+", "0", fault): fault for fault in sender.faults}.values())[:20],
            "seconds": round(took),
            "memory_mb_by_requests": {str(at): value for at, value in memory.items()},
            "memory_mb_at_the_end": megabytes(),
            **in_flight,
        }


if __name__ == "__main__":
    main()
