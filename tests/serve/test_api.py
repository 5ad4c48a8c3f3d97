"""The API on an engine of this process: votes, plain generation, streams, limits, errors."""

import asyncio
import hashlib
import json
import socket
import time

import httpx
import pytest

from actors.engines.openai import OpenAIEngine
from serve.api.routes import create_api
from serve.reading import AnswerReader
from tests.fixtures.serving import CrowdedStudent, ScriptedEngine, TableRanker, events, make_service, with_student

CHAT = "/v1/chat/completions"
SCRIPT = {
    "agree": ["It is \\boxed{4}."],
    "mostly": ["So \\boxed{4}.", "So \\boxed{5}.", "So \\boxed{4} .", "So \\boxed{4.0} ."],
    "halves": ["\\boxed{0.5}", "\\boxed{\\frac{1}{2}}", "\\boxed{2}", "\\boxed{1/2}"],
    "nothing": ["I do not know.", "Who knows?"],
    "long": ["one two three four five six seven eight nine ten \\boxed{1}"],
    "flaky": ["!engine_error: broken", "\\boxed{3}", "\\boxed{3}", "\\boxed{3}"],
    "broken": ["!engine_error: broken"],
    "too long": ["!too_long: 9000 tokens"],
    "down": ["!down: the endpoint has not answered for 10 s"],
    "dead": ["!died: the engine is dead"],
    "letters": ["The answer is (B).", "(b)", "B", "It must be (C)"],
    "fields": ['{"v": 1}', '{"v": 1.0}', '{"v": true}', '{"v": 1}'],
}


@pytest.fixture(scope="module")
def reader():
    reader = AnswerReader(1)
    asyncio.run(reader.warm_up())
    yield reader
    asyncio.run(reader.close())


@pytest.fixture
def api(reader):
    """Sends requests to an API with these settings."""

    def call(method, path, *, body=None, content=None, headers=(), engine=None, **settings):
        engine = engine if engine is not None else ScriptedEngine(SCRIPT)
        service = make_service(engine, reader=reader, **settings)

        async def send():
            transport = httpx.ASGITransport(create_api(service))
            async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=dict(headers)) as client:
                reply = await client.request(method, path, json=body, content=content)
                assert service.admission.num_in_flight == 0
                await asyncio.sleep(0)
                assert engine.running == 0
                return reply

        return asyncio.run(send())

    return call


def ask(question, **fields):
    return {"model": "sluice", "messages": [{"role": "user", "content": question}], "seed": 7, **fields}


def error_of(reply):
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# --- votes


def test_a_vote_stops_as_soon_as_the_answer_is_decided(api):
    reply = api("POST", CHAT, body=ask("agree"))
    body = reply.json()
    # beta at 0.95: 1 - 2 ** -(n + 1) >= 0.95 from n = 4
    assert reply.status_code == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "It is \\boxed{4}.", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    report = body["adaptive"]
    assert report.pop("seconds") >= 0
    assert report == {
        "answer": "4",
        "votes": [{"answer": "4", "samples": 4, "weight": 4.0, "share": 1.0, "confidence": None}],
        "samples": {"used": 4, "cancelled": 0, "failed": 0},
        "margin": 1.0,
        "confidence": None,
        "stop_reason": "decided",
        "vote": "sc",
        "rule": "beta",
        "tokens": 12,
        "tokens_saved": 36,  # 16 samples of 3 tokens, less 12
        "ranker": "none",
        "sample": 0,
    }
    assert body["usage"] == {"prompt_tokens": 11, "completion_tokens": 12, "total_tokens": 23}


def test_equal_answers_are_one(api):
    report = api("POST", CHAT, body=ask("halves", adaptive={"max_samples": 4})).json()["adaptive"]
    assert [(vote["answer"], vote["samples"]) for vote in report["votes"]] == [("0.5", 3), ("2", 1)]
    assert report["stop_reason"] == "max_samples"
    assert report["margin"] == 0.5


def test_the_ranker_weighs_the_samples(api):
    scores = {"So \\boxed{4}.": 0.1, "So \\boxed{5}.": 0.9, "So \\boxed{4} .": 0.15, "So \\boxed{4.0} .": 0.2}
    report = api("POST", CHAT, body=ask("mostly", adaptive={"max_samples": 4}), ranker=TableRanker(scores)).json()
    votes = report["adaptive"]["votes"]
    assert [(vote["answer"], vote["weight"]) for vote in votes] == [("5", 0.9), ("4", 0.45)]
    assert (report["adaptive"]["vote"], report["adaptive"]["rule"]) == ("asc", "beta-weighted")
    assert report["adaptive"]["ranker"] == "used"
    assert report["choices"][0]["message"]["content"] == "So \\boxed{5}."


def test_without_a_score_votes_count_and_say_so(api):
    ranker = TableRanker({}, problem="the ranker does not load")
    report = api("POST", CHAT, body=ask("mostly", adaptive={"max_samples": 4}), ranker=ranker).json()["adaptive"]
    assert (report["answer"], report["vote"], report["rule"]) == ("4", "sc", "beta")
    assert report["ranker"] == "the ranker does not load"


def test_a_question_without_an_answer_gets_the_best_ranked_sample(api):
    ranker = TableRanker({"I do not know.": 0.2, "Who knows?": 0.6})
    body = api("POST", CHAT, body=ask("nothing", adaptive={"max_samples": 4}), ranker=ranker).json()
    assert body["choices"][0]["message"]["content"] == "Who knows?"
    assert (body["adaptive"]["answer"], body["adaptive"]["votes"], body["adaptive"]["sample"]) == (None, [], 1)


def test_samples_on_their_way_are_cancelled_and_their_tokens_counted(api):
    """Sample 0 takes 9 steps, the others one. They count after it, in order; then four agree."""
    texts = ["a b c d e f g h \\boxed{1}", *["\\boxed{1}"] * 3, "b " * 500, "\\boxed{1}"]
    engine = ScriptedEngine({"uneven": texts}, seconds=0.02)
    report = api("POST", CHAT, body=ask("uneven", adaptive={"parallel": 6}), engine=engine).json()["adaptive"]
    assert report["samples"] == {"used": 4, "cancelled": 2, "failed": 0}
    assert engine.outcomes["cancelled"] == 1  # index 4; index 5 is short and came in time
    assert report["tokens"] >= 9 + 3 + 1


def test_failed_samples_cost_the_vote_nothing_but_themselves(api):
    report = api("POST", CHAT, body=ask("flaky", adaptive={"max_samples": 4})).json()["adaptive"]
    assert report["samples"] == {"used": 3, "cancelled": 0, "failed": 1}
    assert (report["answer"], report["stop_reason"]) == ("3", "failed")


def test_at_the_deadline_the_leader_is_returned(api):
    engine = ScriptedEngine({"uneven": ["word " * 1000, "\\boxed{1}"]}, seconds=0.01)
    body = ask("uneven", adaptive={"deadline_seconds": 2.0, "parallel": 2})
    report = api("POST", CHAT, body=body, engine=engine).json()["adaptive"]
    assert (report["answer"], report["stop_reason"], report["samples"]["used"]) == ("1", "deadline", 1)


def test_at_the_deadline_a_drawn_sample_counts_without_its_score(api):
    """A slow ranker costs scores, never an answer."""
    ranker = TableRanker({}, seconds=30)
    body = ask("agree", adaptive={"deadline_seconds": 1.0})
    report = api("POST", CHAT, body=body, ranker=ranker).json()["adaptive"]
    assert (report["answer"], report["vote"], report["stop_reason"]) == ("4", "sc", "deadline")
    assert report["samples"] == {"used": 4, "cancelled": 0, "failed": 0}
    assert report["ranker"] == "the deadline came before the score"


def test_the_deadline_of_plain_generation_is_told_in_the_stream(api):
    engine = ScriptedEngine({"uneven": ["word " * 1000]}, seconds=0.02)
    limits, adaptive = {"max_deadline_seconds": 0.5}, {"deadline_seconds": 0.5}
    body = ask("uneven", adaptive=False, max_tokens=900)
    whole = api("POST", CHAT, body=body, engine=engine, limits=limits, adaptive=adaptive)
    assert (whole.status_code, error_of(whole)["code"]) == (504, "deadline_exceeded")
    chunks, _ = events(
        api("POST", CHAT, body=body | {"stream": True}, engine=engine, limits=limits, adaptive=adaptive).text
    )
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["error"]["code"] == "deadline_exceeded"


def test_a_vote_waits_for_places_while_it_has_some(reader):
    """A student with two places and no queue: the vote is as if it had eight."""
    engine = ScriptedEngine({"agree": SCRIPT["agree"]}, seconds=0.01)
    service = make_service(engine, reader=reader)
    service = with_student(service, CrowdedStudent(engine, places=2))

    async def asked(*questions):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(create_api(service)), base_url="http://t") as client:
            return await asyncio.gather(*(client.post(CHAT, json=ask(question)) for question in questions))

    [reply] = asyncio.run(asked("agree"))
    report = reply.json()["adaptive"]
    assert (report["samples"], report["answer"]) == ({"used": 4, "cancelled": 0, "failed": 0}, "4")
    service = with_student(service, CrowdedStudent(engine, places=0))
    [refused] = asyncio.run(asked("agree"))
    assert (refused.status_code, error_of(refused)["code"]) == (429, "queue_full")


def test_a_deadline_before_any_sample_is_an_error(api):
    engine = ScriptedEngine({"uneven": ["word " * 1000]}, seconds=0.01)
    reply = api("POST", CHAT, body=ask("uneven", adaptive={"deadline_seconds": 0.1}), engine=engine)
    assert (reply.status_code, error_of(reply)["code"]) == (504, "deadline_exceeded")
    assert reply.headers["x-should-retry"] == "false"


def test_the_tokens_of_a_request_are_bounded(api):
    body = ask("mostly", max_tokens=10, adaptive={"max_total_tokens": 25, "confidence": 0.999})
    report = api("POST", CHAT, body=body).json()["adaptive"]
    assert report["stop_reason"] == "max_tokens"
    assert report["tokens"] <= 25


def test_greedy_samples_are_all_the_same_so_one_is_drawn(api):
    report = api("POST", CHAT, body=ask("agree", temperature=0)).json()["adaptive"]
    assert (report["samples"]["used"], report["stop_reason"]) == (1, "max_samples")


def test_min_samples(api):
    report = api("POST", CHAT, body=ask("agree", adaptive={"min_samples": 6})).json()["adaptive"]
    assert report["samples"]["used"] == 6


@pytest.mark.parametrize(
    ("question", "answer", "votes"),
    [
        ("letters", {"kind": "choice"}, [("B", 3), ("C", 1)]),
        ("fields", {"kind": "json", "field": "v"}, [("1", 3), ("true", 1)]),
        ("nothing", {"kind": "text"}, [("I do not know.", 2), ("Who knows?", 2)]),
    ],
)
def test_other_kinds_of_answers(api, question, answer, votes):
    engine = ScriptedEngine(SCRIPT)
    body = ask(question, adaptive={"max_samples": 4, "answer": answer})
    report = api("POST", CHAT, body=body, engine=engine).json()["adaptive"]
    assert [(vote["answer"], vote["samples"]) for vote in report["votes"]] == votes


def test_a_vote_tells_the_student_how_to_state_an_answer(api):
    engine = ScriptedEngine(SCRIPT)
    api("POST", CHAT, body=ask("agree"), engine=engine)
    api("POST", CHAT, body=ask("agree", adaptive=False), engine=engine)
    voted, plain = engine.prompts[0][-1][1], engine.prompts[-1][-1][1]
    assert voted.startswith("agree\n\n")
    assert "\\boxed{}" in voted
    assert plain == "agree"


def test_the_same_seed_draws_the_same_samples(api):
    engines = [ScriptedEngine(SCRIPT) for _ in range(2)]
    for engine in engines:
        api("POST", CHAT, body=ask("agree"), engine=engine)
    seeds = [[params.seed for params in engine.params] for engine in engines]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == len(seeds[0]) >= 4


# --- plain generation


def test_plain_generation_has_no_vote(api):
    body = api("POST", CHAT, body=ask("long", adaptive=False, max_tokens=3)).json()
    assert body["choices"][0]["message"]["content"] == "one two three"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["adaptive"] is None
    assert body["usage"]["completion_tokens"] == 3


def test_n_asks_for_plain_choices(api):
    body = api("POST", CHAT, body=ask("mostly", n=3)).json()
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert texts == SCRIPT["mostly"][:3]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 2 + 2 + 3


@pytest.mark.parametrize("fields", [{"adaptive": False}, {}])
def test_logprobs(api, fields):
    body = api("POST", CHAT, body=ask("agree", logprobs=True, **fields)).json()
    tokens = body["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in tokens] == ["It ", "is ", "\\boxed{4}. "]
    assert tokens[0] == {"token": "It ", "logprob": -0.5, "bytes": [73, 116, 32], "top_logprobs": []}


def test_completions_take_the_prompt_as_it_stands(api):
    engine = ScriptedEngine(SCRIPT)
    body = {"model": "sluice", "prompt": "agree", "seed": 7, "logprobs": 1}
    reply = api("POST", "/v1/completions", body=body, engine=engine).json()
    assert engine.prompts[0] == "agree"
    assert reply["object"] == "text_completion"
    assert reply["choices"][0]["text"] == "It is \\boxed{4}."
    assert reply["choices"][0]["logprobs"]["text_offset"] == [0, 3, 6]
    assert reply["adaptive"]["answer"] == "4"


# --- streams


def test_a_streamed_vote_reports_progress_and_then_the_rationale(api):
    body = ask("mostly", stream=True, stream_options={"include_usage": True}, adaptive={"max_samples": 4})
    reply = api("POST", CHAT, body=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    chunks, comments = events(reply.text)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert text == "So \\boxed{4}."
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-2]["adaptive"]["answer"] == "4"
    assert chunks[-1]["usage"]["completion_tokens"] == chunks[-2]["adaptive"]["tokens"]
    assert [len(comment["samples"]) for comment in comments][-1] == 4
    assert comments[-1]["votes"][0]["samples"] == 3
    assert {sample["state"] for sample in comments[-1]["samples"]} == {"counted"}


def test_plain_generation_is_streamed_token_by_token(api):
    engine = ScriptedEngine(SCRIPT, seconds=0.03)  # slower than pieces are gathered
    chunks, comments = events(api("POST", CHAT, body=ask("long", adaptive=False, stream=True), engine=engine).text)
    assert comments == []
    pieces = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert pieces[0] == ""
    assert "".join(piece or "" for piece in pieces) == SCRIPT["long"][0]
    assert len(pieces) >= 10


def test_several_choices_are_streamed_together(api):
    chunks, _ = events(api("POST", CHAT, body=ask("mostly", n=2, stream=True)).text)
    texts = {0: "", 1: ""}
    for chunk in chunks:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert list(texts.values()) == SCRIPT["mostly"][:2]


def test_an_error_before_the_first_event_has_its_status(api):
    reply = api("POST", CHAT, body=ask("too long", adaptive=False, stream=True))
    assert (reply.status_code, error_of(reply)["code"]) == (400, "context_length_exceeded")


# --- failures of the student


@pytest.mark.parametrize("adaptive", [{}, False])
@pytest.mark.parametrize(
    ("question", "status", "code"),
    [
        ("too long", 400, "context_length_exceeded"),
        ("down", 503, "student_unavailable"),
        ("dead", 503, "student_unavailable"),
        ("broken", 502, "sample_failed"),
    ],
)
def test_a_student_that_fails(api, question, status, code, adaptive):
    reply = api("POST", CHAT, body=ask(question, adaptive=adaptive))
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)
    assert ("retry-after" in reply.headers) == (status == 503)


def test_an_endpoint_that_is_down_is_told_at_once(reader):
    """The first request waits for as long as the endpoint may fail; those after it do not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    service = make_service(OpenAIEngine(url, "m", patience_seconds=0.5), reader=reader)

    async def ask_twice():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(create_api(service)), base_url="http://t") as client:
            first = await client.post(CHAT, json=ask("agree", adaptive=False))
            started = time.monotonic()
            return first, await client.post(CHAT, json=ask("agree")), time.monotonic() - started

    first, second, seconds = asyncio.run(ask_twice())
    for reply in (first, second):
        assert (reply.status_code, error_of(reply)["code"]) == (503, "student_unavailable")
        assert reply.headers["retry-after"]
    assert seconds < 5


# --- bad requests


@pytest.mark.parametrize(
    ("fields", "status", "needle"),
    [
        ({"model": "gpt-9"}, 404, "there is no model 'gpt-9'; there are sluice"),
        ({"adaptive": {"max_samples": 0}}, 400, "greater than or equal to 1"),
        ({"adaptive": {"max_samples": 65}}, 400, "adaptive.max_samples is 65, and this server allows 64"),
        ({"adaptive": {"max_samples": 2, "min_samples": -1}}, 400, "adaptive"),
        ({"adaptive": {"confidence": 1}}, 400, "less than 1"),
        ({"adaptive": {"samples": 2}}, 400, "unknown field: adaptive.samples"),
        ({"adaptive": {"answer": {"kind": "poem"}}}, 400, "kind must be one of mathematics"),
        ({"adaptive": {"answer": {"kind": "json"}}}, 400, "kind json needs a field"),
        ({"adaptive": {"deadline_seconds": 1e9}}, 400, "deadline_seconds"),
        ({"adaptive": {"max_total_tokens": 5}}, 400, "no room for one of"),
        ({"adaptive": "yes please"}, 400, "adaptive"),
        ({"max_tokens": 10**9}, 400, "max_tokens is 1e+09, and this server allows 16384"),
        ({"max_tokens": 10**400}, 400, "max_tokens: Input should be less than 2147483648"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "not both"),
        ({"n": 2, "adaptive": {}}, 400, "plain samples"),
        ({"n": 65}, 400, "n is 65"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": 3}, 400, "temperature"),
        ({"stop": [""]}, 400, "stop"),
        ({"seed": 2**63}, 400, "seed"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"role": "user"}]}, 400, "messages.0.content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "last message of the user"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, 400, "messages.0"),
        ({"tools": [{"type": "function"}]}, 400, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format is not supported"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty is not supported"),
        ({"stream_options": {"include_usage": True}}, 400, "stream=true"),
        ({"wings": 2}, 400, "unknown field: wings"),
        ({"\ud800": 2}, 400, "unicode"),
        ({"stop": "\udfff"}, 400, "surrogate"),
    ],
)
def test_a_bad_request_gets_one_clear_line(api, fields, status, needle):
    content = json.dumps(ask("agree") | fields).encode()
    reply = api("POST", CHAT, content=content, headers={"content-type": "application/json"})
    assert reply.status_code == status, reply.text
    assert needle in error_of(reply)["message"]
    assert "\n" not in reply.json()["error"]["message"]


def test_what_openai_clients_send_without_meaning_it_is_taken(api):
    fields = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "presence_penalty": 0, "frequency_penalty": 0.0,
        "logit_bias": None, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "n": None,
        "top_p": None, "stop": None, "temperature": None, "top_logprobs": None, "logprobs": False, "stream": False,
        "max_completion_tokens": 50, "service_tier": "auto", "parallel_tool_calls": True,
    }  # fmt: skip
    assert api("POST", CHAT, body=ask("agree", **fields)).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b'{"model": "\xff"}', b"NaN", b'{"temperature": NaN}',
        b"[" * 100_000, b'{"model": "sluice", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "sluice", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"model": "sluice", "messages": [{"role": "user", "content": "x"}], "n": 1e400}',
    ],
)  # fmt: skip
def test_a_body_that_is_no_request(api, content):
    reply = api("POST", CHAT, content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text
    error_of(reply)


def test_a_body_that_is_too_large(api):
    huge = json.dumps(ask("x" * 5000)).encode()
    headers = {"content-type": "application/json"}
    limits = {"max_body_bytes": 4096}
    assert api("POST", CHAT, content=huge, headers=headers, limits=limits).status_code == 413

    async def chunks():  # without a content-length
        for start in range(0, len(huge), 1000):
            yield huge[start : start + 1000]

    reply = api("POST", CHAT, content=chunks(), headers=headers, limits=limits)
    assert reply.status_code == 413
    error_of(reply)


def test_a_prompt_that_is_too_long(api):
    reply = api("POST", CHAT, body=ask("x" * 500), limits={"max_prompt_characters": 400})
    assert (reply.status_code, error_of(reply)["code"]) == (400, "limit_exceeded")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v2/nothing", 404), ("/v1/chat/completions", 405), ("/v1/chat/completions/", 404), ("/v1/models/x", 404)],
)
def test_paths_that_are_not_there(api, path, status):
    reply = api("GET", path)
    assert reply.status_code == status
    error_of(reply)


# --- keys, concurrency, headers


def key(value):
    return {"authorization": f"Bearer {value}"}


DIGESTS = tuple(hashlib.sha256(each.encode()).digest() for each in ("first", "second"))


@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
def test_keys(api, path):
    for headers, status in [
        ({}, 401), (key("third"), 401), (key(""), 401), ({"authorization": "Basic first"}, 401),
        (key("first"), 200), (key("second"), 200), ({"authorization": "bearer first"}, 200),
    ]:  # fmt: skip
        reply = api("GET", path, headers=headers, digests=DIGESTS)
        assert reply.status_code == status
    reply = api("POST", CHAT, body=ask("agree"), digests=DIGESTS)
    assert (reply.status_code, error_of(reply)["type"]) == (401, "authentication_error")
    assert reply.headers["www-authenticate"] == "Bearer"


def test_health_needs_no_key(api):
    assert api("GET", "/healthz", digests=DIGESTS).json()["status"] == "ok"


def test_headers_are_safe_and_requests_have_ids(api):
    reply = api("GET", "/v1/models")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert len(reply.headers["x-request-id"]) == 32


def test_models_tell_the_lineage(api):
    [model] = api("GET", "/v1/models", ranker=TableRanker({})).json()["data"]
    assert model["id"] == "sluice"
    assert model["sluice"] == {
        "student": {"engine": "scripted", "model": "script"},
        "ranker": {"kind": "table", "answers": "mathematics", "problem": None},
    }
    assert api("GET", "/v1/models/sluice").json()["object"] == "model"


@pytest.mark.parametrize(
    ("limits", "code"), [({"max_concurrent": 2}, "server_busy"), ({"max_concurrent_per_key": 2}, "rate_limit_exceeded")]
)
def test_more_requests_than_places(reader, limits, code):
    engine = ScriptedEngine({"slow": ["\\boxed{1}"]}, seconds=0.2)
    service = make_service(engine, reader=reader, limits=limits)

    async def burst():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(create_api(service)), base_url="http://t") as client:
            replies = await asyncio.gather(*(client.post(CHAT, json=ask("slow")) for _ in range(5)))
            again = await client.post(CHAT, json=ask("slow"))
        return replies, again

    replies, again = asyncio.run(burst())
    assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429, 429]
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert (error_of(refused)["code"], refused.headers["retry-after"]) == (code, "1")
    assert again.status_code == 200


def test_a_client_that_goes_away_frees_its_samples(reader):
    engine = ScriptedEngine({"slow": ["word " * 1000]}, seconds=0.01)
    service = make_service(engine, reader=reader)

    async def leave(stream):
        app = create_api(service)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            task = asyncio.create_task(client.post(CHAT, json=ask("slow", stream=stream)))
            while engine.running < 4:
                await asyncio.sleep(0.01)
            started = time.monotonic()
            task.cancel()
            while engine.running:
                await asyncio.sleep(0.01)
            assert service.admission.num_in_flight == 0
            assert time.monotonic() - started < 5

    asyncio.run(leave(False))
    asyncio.run(leave(True))


def test_nothing_of_a_request_is_logged_unless_asked(reader, caplog):
    secret = "the question of my life"
    for log_requests in (False, True):
        caplog.clear()
        service = make_service(ScriptedEngine(), reader=reader, log_requests=log_requests)

        async def send(service=service):
            transport = httpx.ASGITransport(create_api(service))
            async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
                await client.post(CHAT, json=ask(secret, adaptive={"max_samples": 2}))

        with caplog.at_level("INFO"):
            asyncio.run(send())
        text = caplog.text
        assert (secret in text) == log_requests
        line = next(record for record in caplog.records if record.name == "sluice.access")
        facts = json.loads(line.getMessage())
        assert (facts["status"], facts["kind"], facts["samples"]) == (200, "vote", 2)
