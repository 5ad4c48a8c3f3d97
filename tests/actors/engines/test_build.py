"""The table of engines: what it checks on the driver, and the factory that a worker gets."""

import importlib.util
import json
import pickle

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from actors.engines.build import DEFAULT_BATCH, ENGINES, EngineOptions, prepare_engine
from actors.engines.openai import OpenAIEngine
from actors.engines.transformers import TransformersEngine
from actors.errors import UserError
from actors.models.source import ModelSource


@pytest.fixture
def options(byte_model):
    """Options of an engine with the byte model, which has no chat template."""

    def make(**more):
        return EngineOptions(**{"model": byte_model, "needs_chat_template": False} | more)

    return make


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    """A vLLM that can be found. Nothing imports it on the driver."""
    package = tmp_path / "packages" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the driver imports vllm')")
    monkeypatch.syspath_prepend(str(package.parent))


def save_lora(folder, model, rank=4, **settings):
    """A LoRA adapter of a model."""
    config = LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], **settings)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["transformers", "openai"])
def test_a_factory_is_sent_to_a_worker_and_builds_its_engine(options, name):
    prepared = prepare_engine(name, options(max_batch=3, url="http://127.0.0.1:9/v1", concurrency=6))
    engine = pickle.loads(pickle.dumps(prepared.factory))()
    assert type(engine) is {"transformers": TransformersEngine, "openai": OpenAIEngine}[name]
    assert engine.concurrency == 6  # twice the batch, or as told


def test_the_batch_of_transformers_has_a_default(options):
    assert prepare_engine("transformers", options()).factory.max_batch == DEFAULT_BATCH


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_an_engine_tells_its_flags_and_what_it_is(name):
    assert ENGINES[name].description
    assert ENGINES[name].flags


# --- what identifies an engine


def test_a_local_engine_is_identified_by_model_and_type(options, byte_model):
    identity = prepare_engine("transformers", options(dtype="bfloat16")).identity
    assert set(identity) == {"model", "architecture", "files", "dtype"}
    assert (identity["model"], identity["dtype"]) == (byte_model, "bfloat16")


def test_an_adapter_is_part_of_the_identity(options, byte_model, tmp_path):
    adapter = save_lora(tmp_path / "adapter", byte_model)
    identity = prepare_engine("transformers", options(adapter=adapter)).identity
    assert identity["adapter"].items() >= {"kind": "LORA", "base": byte_model}.items()


def test_an_endpoint_is_identified_by_model_and_url_without_its_key(options):
    made = options(model="big", url="http://127.0.0.1:9/v1", api_key="secret")
    prepared = prepare_engine("openai", made)
    assert prepared.identity == {"model": "big", "url": "http://127.0.0.1:9/v1"}
    assert prepared.factory.api_key == "secret"
    assert "secret" not in f"{made!r} {prepared!r}"


# --- what is refused


@pytest.mark.parametrize("name", ["transformers", "vllm"])
def test_an_unknown_model_is_refused(options, vllm, name):
    with pytest.raises(UserError, match="cannot load model 'nobody/no-such-model'"):
        prepare_engine(name, options(model="nobody/no-such-model"))


@pytest.mark.parametrize("name", ["transformers", "vllm"])
def test_a_model_without_a_chat_template_is_refused_where_one_is_needed(options, vllm, name):
    with pytest.raises(UserError, match="has no chat template"):
        prepare_engine(name, options(needs_chat_template=True))


def test_an_endpoint_needs_a_url(options):
    with pytest.raises(UserError, match="--engine openai needs --url"):
        prepare_engine("openai", options())


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_must_be_installed(options):
    with pytest.raises(UserError, match="--engine vllm needs vLLM: uv pip install"):
        prepare_engine("vllm", options())


# --- the arguments of vLLM


def test_vllm_on_a_cpu_is_eager_and_takes_a_part_of_the_memory(options, vllm, byte_model):
    factory = prepare_engine("vllm", options(seed=5, max_model_len=99)).factory
    assert (factory.model, factory.adapter, factory.on_gpu) == (ModelSource(byte_model), None, False)
    assert factory.arguments == {
        "dtype": "float32",
        "seed": 5,
        "max_model_len": 99,
        "enforce_eager": True,
        "gpu_memory_utilization": 0.35,
    }


def test_vllm_is_split_over_the_gpus_of_its_actor(options, vllm):
    factory = prepare_engine("vllm", options(device="cuda", dtype="bfloat16", num_gpus=2, max_batch=7)).factory
    assert factory.on_gpu
    assert factory.arguments == {
        "dtype": "bfloat16",
        "seed": 0,
        "max_model_len": None,
        "max_num_seqs": 7,
        "tensor_parallel_size": 2,
        "distributed_executor_backend": "mp",
    }


def test_engine_kwargs_have_the_last_word(options, vllm):
    more = {"gpu_memory_utilization": 0.9, "seed": 3}
    prepared = prepare_engine("vllm", options(engine_kwargs=more))
    assert prepared.factory.arguments.items() >= more.items()
    assert prepared.identity["engine_kwargs"] == more


@pytest.mark.parametrize(
    ("rank", "pattern", "expected"), [(4, {}, 8), (8, {}, 8), (9, {}, 16), (4, {"v_proj": 40}, 64)]
)
def test_vllm_gets_the_smallest_rank_that_the_adapter_fits_into(
    options, vllm, byte_model, tmp_path, rank, pattern, expected
):
    adapter = save_lora(tmp_path / "adapter", byte_model, rank, rank_pattern=pattern)
    factory = prepare_engine("vllm", options(adapter=adapter)).factory
    assert factory.adapter == adapter
    assert factory.arguments.items() >= {"enable_lora": True, "max_loras": 1, "max_lora_rank": expected}.items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 1000}, "has rank 1000; vLLM serves ranks up to 512"),
        ({"peft_type": "IA3"}, "is of kind IA3: vLLM serves"),
    ],
)
def test_an_adapter_that_vllm_cannot_serve_is_refused(options, vllm, byte_model, tmp_path, change, message):
    adapter = save_lora(tmp_path / "adapter", byte_model)
    path = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(path.read_text()) | change
    if "peft_type" in change:
        settings = {name: settings[name] for name in ("base_model_name_or_path", "peft_type", "target_modules")}
        settings |= {"feedforward_modules": []}
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        prepare_engine("vllm", options(adapter=adapter))
