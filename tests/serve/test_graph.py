"""The running graph, driven by OpenAI's own client: every endpoint, lost replicas, full queues, clients that leave."""

import asyncio
import threading
import time

import httpx
import openai
import pytest
import ray
from ray import serve

from serve.ranker import UNLOADABLE

CHAT = [{"role": "user", "content": "agree"}]


@pytest.fixture
def client(graph):
    with openai.OpenAI(base_url=f"{graph}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def chat(client, question, **fields):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(**{"model": "sluice", "messages": messages, "seed": 7} | fields)


def replicas(name):
    """The actors of a deployment's replicas that live."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return [each for each in actors if each["name"].startswith(f"SERVE_REPLICA::graph#{name}#")]


def healthy(graph, name="sluice", count=2):
    state = httpx.get(f"{graph}/healthz").json()["students"][name]
    return state == {"status": "HEALTHY", "replicas": count}


def wait_for(condition, seconds=60):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.2)


def test_a_vote_through_the_client(client):
    reply = chat(client, "agree", extra_body={"adaptive": {"max_samples": 8}})
    assert reply.choices[0].message.content == "It is \\boxed{4}."
    assert reply.adaptive["answer"] == "4"
    assert reply.adaptive["samples"]["used"] == 4
    assert reply.adaptive["ranker"] == UNLOADABLE  # it says why it does not vote
    assert reply.usage.completion_tokens == reply.adaptive["tokens"] == 12


def test_plain_choices_and_log_probabilities(client):
    reply = chat(client, "agree", n=2, logprobs=True, max_tokens=2, extra_body={"adaptive": False})
    assert [choice.message.content for choice in reply.choices] == ["It is", "It is"]
    assert reply.choices[0].finish_reason == "length"
    assert [token.logprob for token in reply.choices[1].logprobs.content] == [-0.5, -0.5]


def test_a_streamed_vote(client):
    chunks = list(chat(client, "agree", stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "It is \\boxed{4}."
    assert chunks[-2].adaptive["stop_reason"] == "decided"
    assert chunks[-1].usage.completion_tokens == 12


def test_a_plain_stream_comes_token_by_token(client):
    started, times = time.monotonic(), []
    for chunk in chat(client, "slow", stream=True, extra_body={"adaptive": False}):
        if chunk.choices[0].delta.content:
            times.append(time.monotonic() - started)
    assert len(times) > 10
    assert times[-1] - times[0] > 0.4  # 41 tokens of 20 ms


def test_completions_and_models(client):
    reply = client.completions.create(model="sluice", prompt="agree", seed=7)
    assert (reply.choices[0].text, reply.adaptive["answer"]) == ("It is \\boxed{4}.", "4")
    assert sorted(model.id for model in client.models.list()) == ["sluice", "solo"]
    assert client.models.retrieve("solo").sluice["student"] == {"engine": "scripted", "model": "script"}


def test_the_asynchronous_client(graph):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{graph}/v1", api_key="any", max_retries=0) as client:
            replies = await asyncio.gather(*(chat(client, "agree") for _ in range(20)))
            stream = await chat(client, "agree", stream=True)
            return replies, [chunk async for chunk in stream]

    replies, chunks = asyncio.run(ask())
    assert {reply.adaptive["answer"] for reply in replies} == {"4"}
    assert chunks[-1].adaptive["answer"] == "4"


@pytest.mark.parametrize(
    ("question", "fields", "error", "code"),
    [
        ("agree", {"model": "gpt-9"}, openai.NotFoundError, "model_not_found"),
        ("agree", {"temperature": 3}, openai.BadRequestError, None),
        ("too long", {}, openai.BadRequestError, "context_length_exceeded"),
        ("down", {}, openai.InternalServerError, "student_unavailable"),
    ],
)
def test_the_client_raises_its_own_errors(client, question, fields, error, code):
    with pytest.raises(error) as raised:
        chat(client, question, **fields)
    assert raised.value.code == code


def test_the_samples_of_a_prompt_share_a_replica(client):
    pids = set()
    for number in range(24):  # by chance all on one replica in less than one of 10,000 runs
        reply = chat(client, f"which process {number}", extra_body={"adaptive": {"max_samples": 6, "parallel": 6}})
        assert len(reply.adaptive["votes"]) == 1
        pids.add(reply.adaptive["answer"])
    assert len(pids) == 2


def test_health_tells_of_the_ranker(graph):
    wait_for(lambda: httpx.get(f"{graph}/healthz").json()["ranker"])
    health = httpx.get(f"{graph}/healthz").json()
    assert health["status"] == "degraded"
    assert health["ranker"]["problem"] == UNLOADABLE
    assert health["students"]["solo"] == {"status": "HEALTHY", "replicas": 1}


def test_a_conversation_goes_on_with_the_reply_as_it_came(client):
    messages = [{"role": "user", "content": "agree"}]
    reply = client.chat.completions.create(model="sluice", messages=messages, seed=7)
    messages += [reply.choices[0].message, {"role": "user", "content": "agree"}]
    again = client.chat.completions.create(model="sluice", messages=messages, seed=7)
    assert again.adaptive["answer"] == "4"


def test_the_metrics_of_all_replicas_are_on_one_page(graph, client):
    chat(client, "agree")

    def has_metrics():
        text = httpx.get(f"{graph}/metrics").text
        return all(f"ray_sluice_{name}" in text for name in ("samples_total{", "requests_total{", "stops_total{"))

    wait_for(has_metrics)


def test_a_client_that_leaves_frees_its_samples(graph, client):
    with httpx.Client(timeout=60) as leaving:
        body = {"model": "solo", "messages": [{"role": "user", "content": "endless"}], "max_tokens": 3000}
        with pytest.raises(httpx.ReadTimeout):
            leaving.post(f"{graph}/v1/chat/completions", json=body | {"adaptive": {"max_samples": 1}}, timeout=1.0)
    started = time.monotonic()
    reply = chat(client, "how many run", model="solo", temperature=0)
    assert reply.adaptive["answer"] == "0"
    assert time.monotonic() - started < 10


def test_a_full_queue_is_told_as_such(graph):
    """`solo` holds two samples, and one waits."""
    body = {"model": "solo", "messages": [{"role": "user", "content": "slow"}], "adaptive": {"max_samples": 1}}

    async def burst():
        async with httpx.AsyncClient(timeout=60) as client:
            return await asyncio.gather(*(client.post(f"{graph}/v1/chat/completions", json=body) for _ in range(8)))

    replies = asyncio.run(burst())
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 429}
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) > 0


def test_a_lost_replica_costs_no_request(graph, client):
    wait_for(lambda: healthy(graph))
    replies, errors = [], []

    def ask(number):
        """Each question has a prompt of its own, so that both replicas are busy."""
        try:
            replies.append(chat(client, f"slow {number}", extra_body={"adaptive": {"max_samples": 6}}))
        except openai.APIError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    student = serve.get_deployment_handle("Student-sluice", "graph")
    wait_for(lambda: student.load.remote().result()["in_flight"] > 0)
    for victim in replicas("Student-sluice")[:1]:
        ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]), no_restart=True)
    for thread in threads:
        thread.join()
    assert errors == []
    assert [reply.adaptive["answer"] for reply in replies] == ["7"] * 8
    assert {reply.adaptive["samples"]["failed"] for reply in replies} == {0}
    wait_for(lambda: healthy(graph))


def test_a_dead_engine_ends_its_replica_and_another_one_answers(graph, client, tmp_path):
    """The engine dies once, at the first sample of this question."""
    wait_for(lambda: healthy(graph))
    reply = chat(client, f"dies once {tmp_path / 'mark'}", extra_body={"adaptive": {"max_samples": 4}})
    assert (reply.adaptive["answer"], reply.adaptive["samples"]["failed"]) == ("9", 0)
    wait_for(lambda: healthy(graph))
