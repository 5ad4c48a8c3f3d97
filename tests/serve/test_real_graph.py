"""The whole graph on real engines: the embedded model with transformers, and with vLLM and an adapter."""

import importlib.util
import time

import httpx
import openai
import pytest
import torch
from peft import LoraConfig, get_peft_model

from actors.models.source import ModelSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.filterwarnings("default")]
QUESTION = [{"role": "user", "content": "What is 12 + 30?"}]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A random LoRA, weak enough that the model still speaks."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=1, target_modules=["q_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(ModelSource("smollm2").load("float32"), config).save_pretrained(folder)
    return str(folder)


def running(graph, name, **settings):
    """The URL of a second application beside `graph`, under a path of its own."""
    from ray import serve

    from serve.app import build
    from serve.settings import Settings

    small = {"num_cpus": 0.1}
    settings = {"replicas": small, "ingress": small, **settings}
    serve.run(build(Settings.model_validate(settings)), name=name, route_prefix=f"/{name}")
    return f"{graph}/{name}"


def load(name):
    from ray import serve

    return serve.get_deployment_handle("Student-sluice", name).load.remote().result()


@pytest.mark.parametrize(
    "engine",
    [
        "transformers",
        pytest.param(
            "vllm",
            marks=pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM: make vllm"),
        ),
    ],
)
def test_a_real_student_votes_and_frees_what_is_cancelled(graph, adapter, engine):
    from ray import serve

    more = {"max_model_len": 512} if engine == "vllm" else {"threads": 2}
    url = running(graph, engine, student=adapter, engine=engine, max_batch=8, **more)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=300) as client:
        assert client.models.retrieve("sluice").sluice["student"]["adapter"]["kind"] == "LORA"
        asked = {"model": "sluice", "messages": QUESTION, "max_tokens": 48, "seed": 1}
        reply = client.chat.completions.create(**asked, extra_body={"adaptive": {"max_samples": 4}})
        assert reply.adaptive["samples"]["failed"] == 0
        assert reply.usage.prompt_tokens > 20
        assert 4 <= reply.usage.completion_tokens <= 4 * 48
        plain = client.chat.completions.create(**asked, logprobs=True, temperature=0, extra_body={"adaptive": False})
        tokens = plain.choices[0].logprobs.content
        assert len(tokens) == plain.usage.completion_tokens
        assert all(token.logprob <= 0 for token in tokens)
        text = "".join(
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(
                **asked, stream=True, temperature=0, extra_body={"adaptive": False}
            )
        )
        assert text == plain.choices[0].message.content
    body = {"model": "sluice", "messages": QUESTION, "max_tokens": 400, "adaptive": {"max_samples": 8, "parallel": 8}}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=2.0)
    started = time.monotonic()
    while load(engine) != {"in_flight": 0, "engine": 0}:
        assert time.monotonic() - started < 10  # about a second on an idle machine
        time.sleep(0.05)
    serve.delete(engine)
