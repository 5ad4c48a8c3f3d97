"""The vLLM engine: the same answers as the transformers engine, and what becomes of them when something ends early."""

import asyncio
import importlib.util
import time
from contextlib import aclosing

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from actors.engines.build import EngineOptions, prepare_engine
from actors.engines.protocol import SampleRequest
from actors.errors import EngineDied
from actors.models.source import ModelSource
from algorithms.row_errors import RowError
from algorithms.sampling import SamplingParams

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # vLLM's imports warn
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM: make vllm"),
]
CHATS = [(("user", text),) for text in ("What is 12 + 30?", "Name three fruits.", "What is 7 times 8?", "Say hello.")]
GREEDY = SamplingParams(temperature=0, max_tokens=32)
LONG = SamplingParams(temperature=0.7, max_tokens=400)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A random LoRA, strong enough to change every answer."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(ModelSource("smollm2").load("float32"), config).save_pretrained(folder)
    return str(folder)


def build(name, adapter):
    options = EngineOptions(adapter=adapter, num_threads=2, max_model_len=512 if name == "vllm" else None)
    return prepare_engine(name, options).factory()


@pytest.fixture(scope="module")
def loop():
    """vLLM's client belongs to one event loop."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def vllm(adapter, loop):
    engine = build("vllm", adapter)
    yield engine
    engine.close()


def draw(loop, engine, *requests):
    async def together():
        return await asyncio.gather(*(engine.sample(SampleRequest(*request)) for request in requests))

    return loop.run(together())


def test_greedy_answers_with_a_lora_are_those_of_transformers(vllm, adapter, loop):
    ours = build("transformers", adapter)
    expected, plain = (
        draw(loop, engine, *((chat, GREEDY) for chat in CHATS)) for engine in (ours, build("transformers", None))
    )
    found = draw(loop, vllm, *((chat, GREEDY) for chat in CHATS))
    assert [each.text for each in found] == [each.text for each in expected]
    assert [each.mean_logprob for each in found] == pytest.approx([each.mean_logprob for each in expected], abs=1e-4)
    assert all(one.text != other.text for one, other in zip(expected, plain, strict=True))


def test_the_pieces_of_a_stream_are_the_sample(vllm, loop):
    [whole] = draw(loop, vllm, (CHATS[0], GREEDY))

    async def read():
        async with aclosing(vllm.stream(SampleRequest(CHATS[0], GREEDY))) as stream:
            return [piece async for piece in stream]

    pieces = loop.run(read())
    assert len(pieces) > 2
    assert "".join(piece.text for piece in pieces) == pieces[-1].sample.text == whole.text


def test_each_request_has_its_own_parameters(vllm, loop):
    short = SamplingParams(temperature=0, max_tokens=3)
    one, other = draw(loop, vllm, (CHATS[0], short), (CHATS[0], GREEDY))
    assert (one.num_tokens, one.finish_reason) == (3, "length")
    assert other.num_tokens > 3
    assert other.text.startswith(one.text)


def test_a_stop_text_ends_a_sample_and_is_not_part_of_it(vllm, loop):
    [whole] = draw(loop, vllm, (CHATS[1], GREEDY))
    stop = whole.text[5:8]
    [cut] = draw(loop, vllm, (CHATS[1], SamplingParams(temperature=0, max_tokens=32, stop=(stop,))))
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")


def test_a_cancelled_call_leaves_the_engine(vllm, loop):
    async def begin_and_cancel():
        waiting = [asyncio.create_task(vllm.sample(SampleRequest(CHATS[1], LONG))) for _ in range(4)]
        await asyncio.sleep(1.0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        spent = vllm.forward_seconds
        await asyncio.sleep(0.5)
        return vllm.forward_seconds - spent

    assert loop.run(begin_and_cancel()) == 0.0


def test_a_prompt_longer_than_the_window_is_the_rows_error(vllm, loop):
    with pytest.raises(RowError, match="too_long"):
        draw(loop, vllm, ("x " * 600, GREEDY))


def test_every_call_is_told_when_the_engine_process_dies(adapter, loop):
    before = set(psutil.Process().children(recursive=True))
    engine = build("vllm", adapter)
    started = set(psutil.Process().children(recursive=True)) - before

    async def begin_and_kill():
        waiting = [asyncio.create_task(engine.sample(SampleRequest(CHATS[1], LONG))) for _ in range(3)]
        await asyncio.sleep(1.0)
        for process in started:
            if "EngineCore" in " ".join(process.cmdline()) or "EngineCore" in process.name():
                process.kill()
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 120)

    outcomes = loop.run(begin_and_kill())
    assert [type(outcome) for outcome in outcomes] == [EngineDied] * 3
    engine.close()
    deadline = time.monotonic() + 30
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in started):
        assert time.monotonic() < deadline, "processes of a dead engine are left"
        time.sleep(0.2)
