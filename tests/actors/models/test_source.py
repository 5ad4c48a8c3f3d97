"""Models by name: the revision that was checked is the one that is loaded. Windows, ends, stop texts, wrong names."""

import asyncio
import pickle
import shutil

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, GenerationConfig, LlamaConfig

from actors.engines.protocol import SampleRequest
from actors.engines.transformers import TransformersEngine
from actors.errors import UserError
from actors.models.checks import check_model
from actors.models.source import UNBOUNDED, ModelSource, encode_prompt, split_stops
from algorithms.sampling import SamplingParams

HUB_NAME = "someone/tiny"
FIRST, SECOND = "a" * 40, "b" * 40  # commits


def changed(folder, to, *, config=None, tokenizer=None, generation=None, scale=1.0):
    """A copy of a model folder with another config, tokenizer, generation config, or weights."""
    shutil.copytree(folder, to)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= scale
    model.config.update(config or {})
    model.generation_config = GenerationConfig(**generation or {"eos_token_id": 2})
    model.save_pretrained(to)
    loaded = AutoTokenizer.from_pretrained(folder)
    for name, value in (tokenizer or {}).items():
        setattr(loaded, name, value)
    loaded.save_pretrained(to)
    return to


@pytest.fixture
def hub(byte_model, tmp_path, monkeypatch):
    """The cache of the hub with two commits of a model. The branch is at the first; the result moves it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / f"models--{HUB_NAME.replace('/', '--')}"
    changed(
        byte_model,
        folder / "snapshots" / FIRST,
        config={"max_position_embeddings": 128},
        tokenizer={"chat_template": "{{ messages[0].content }} first"},
        generation={"eos_token_id": [3, 4]},
    )
    changed(
        byte_model,
        folder / "snapshots" / SECOND,
        config={"max_position_embeddings": 64},
        tokenizer={"chat_template": "{{ messages[0].content }} second"},
        generation={"eos_token_id": [5, 6]},
        scale=2.0,
    )
    branch = folder / "refs" / "main"
    branch.parent.mkdir()
    branch.write_text(FIRST)
    return lambda commit: branch.write_text(commit)


def draw_greedy(source):
    """The greedy sample of a model."""

    async def one():
        params = SamplingParams(temperature=0, max_tokens=8)
        return await TransformersEngine(source).sample(SampleRequest("What is 1 + 1?", params))

    return asyncio.run(one())


# --- revisions


def test_a_checked_hub_model_is_pinned_to_the_commit_of_its_branch(hub):
    for commit in (FIRST, SECOND):
        hub(commit)
        checked = check_model(HUB_NAME)
        assert checked.source == ModelSource(HUB_NAME, commit)
        assert checked.identity == {"model": HUB_NAME, "architecture": "LlamaForCausalLM", "commit": commit}


def test_the_commit_that_was_checked_is_sampled_after_the_branch_has_moved(hub):
    sent = pickle.dumps(check_model(HUB_NAME).source)
    hub(SECOND)
    assert draw_greedy(pickle.loads(sent)) == draw_greedy(ModelSource(HUB_NAME, FIRST))


def test_a_pinned_source_reads_its_commit_wherever_the_branch_is(hub):
    hub(SECOND)
    source = ModelSource(HUB_NAME, FIRST)
    assert source.config.max_position_embeddings == source.window == 128
    assert source.tokenizer.chat_template.endswith("first")
    assert source.end_ids == {0, 3, 4}  # 0 is the tokenizer's
    assert source.empty().config.max_position_embeddings == 128


def test_a_pinned_source_loads_the_weights_of_its_commit(hub, byte_model):
    base = AutoModelForCausalLM.from_pretrained(byte_model).lm_head.weight
    for commit, factor in ((FIRST, 1), (SECOND, 2)):
        source = pickle.loads(pickle.dumps(ModelSource(HUB_NAME, commit)))
        torch.testing.assert_close(source.load("float32").lm_head.weight, factor * base, rtol=0, atol=0)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_weights_are_on_the_device_that_was_asked_for(byte_model, device):
    model = ModelSource(byte_model).load("bfloat16", device=device)
    assert {(each.device.type, each.dtype) for each in model.parameters()} == {(device, torch.bfloat16)}


def test_an_engine_samples_from_the_commit_of_its_source(hub):
    assert draw_greedy(ModelSource(HUB_NAME, FIRST)) != draw_greedy(ModelSource(HUB_NAME, SECOND))
    hub(SECOND)
    assert draw_greedy(ModelSource(HUB_NAME, SECOND)) == draw_greedy(ModelSource(HUB_NAME))


def test_an_unpinned_name_follows_the_branch(hub):
    assert ModelSource(HUB_NAME).window == 128
    hub(SECOND)
    assert ModelSource(HUB_NAME).window == 64


def test_a_commit_that_this_machine_lacks_is_one_line(hub):
    with pytest.raises(UserError, match=f"cannot load model '{HUB_NAME}'") as caught:
        ModelSource(HUB_NAME, "c" * 40).load("float32")
    assert "\n" not in str(caught.value)


def test_a_folder_has_no_revision_but_a_digest(byte_model, tmp_path):
    checked = check_model(byte_model)
    assert checked.source == ModelSource(byte_model)
    assert set(checked.identity) == {"model", "architecture", "files"}
    other = changed(byte_model, tmp_path / "other", scale=2.0)
    assert check_model(str(other)).identity["files"] != checked.identity["files"]


def test_a_source_is_sent_without_what_it_has_read(byte_model):
    source = ModelSource(byte_model)
    assert source.window == 4096  # it has read its config and its tokenizer
    assert len(pickle.dumps(source)) < 300
    assert pickle.loads(pickle.dumps(source)) == source == ModelSource.of(byte_model)
    assert ModelSource.of(source) is source


# --- what a model sees and says


@pytest.mark.parametrize(
    ("of_config", "of_tokenizer", "window"),
    [(512, 10**30, 512), (512, 100, 100), (None, 100, 100), (None, 10**30, UNBOUNDED)],
)
def test_the_window_is_the_smaller_limit(byte_model, tmp_path, of_config, of_tokenizer, window):
    folder = tmp_path / "limited"
    shutil.copytree(byte_model, folder)
    config = BloomConfig() if of_config is None else LlamaConfig(max_position_embeddings=of_config)
    config.save_pretrained(folder)  # Bloom's has no limit
    tokenizer = AutoTokenizer.from_pretrained(byte_model)
    tokenizer.model_max_length = of_tokenizer
    tokenizer.save_pretrained(folder)
    assert ModelSource(str(folder)).window == window


@pytest.mark.parametrize(
    ("generation", "ends"),
    [
        ({"eos_token_id": 7}, {0, 7}),
        ({"eos_token_id": [7, 8]}, {0, 7, 8}),
        ({"eos_token_id": None}, {0}),
        (None, {0, 2}),
    ],
)
def test_texts_end_where_the_generation_config_or_the_tokenizer_says(byte_model, tmp_path, generation, ends):
    folder = shutil.copytree(byte_model, tmp_path / "ends")
    if generation is None:
        (folder / "generation_config.json").unlink()  # then the config says
    else:
        GenerationConfig(**generation).save_pretrained(folder)
    assert ModelSource(str(folder)).end_ids == ends


def test_any_end_of_a_model_ends_its_samples(byte_model, tmp_path):
    folder = shutil.copytree(byte_model, tmp_path / "ends")
    GenerationConfig(eos_token_id=list(range(256))).save_pretrained(folder)
    assert draw_greedy(ModelSource(str(folder))).num_tokens == 1


def test_a_text_is_encoded_as_it_stands_and_a_chat_by_the_template(byte_model):
    tokenizer = AutoTokenizer.from_pretrained(byte_model)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
    )
    ids = encode_prompt(tokenizer, "<user>2 + 2?<me>")
    assert tokenizer.decode(ids) == "<user>2 + 2?<me>"
    assert encode_prompt(tokenizer, (("user", "2 + 2?"),)) == ids


def test_stop_texts_are_split_into_special_tokens_and_others(byte_model):
    tokenizer = AutoTokenizer.from_pretrained(byte_model)  # "!", the end of its texts, is its only special token
    assert split_stops(tokenizer, ("x", "!", "!!")) == ({0}, ("x", "!!"))
    assert split_stops(tokenizer, ()) == (frozenset(), ())


# --- models that do not exist


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/no-such-model", "cannot load model 'nobody/no-such-model': .* Name a model folder, a hub model"),
        ("no-such-model", "cannot load model 'no-such-model'"),
        ("./nowhere", r"model folder './nowhere' does not exist"),
        ("/nowhere", "model folder '/nowhere' does not exist"),
        ("~/nowhere", "model folder '~/nowhere' does not exist"),
        ("a/b/c", "model folder 'a/b/c' does not exist"),
    ],
)
def test_an_unknown_model_is_one_line(name, message, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        check_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", ["config", "tokenizer", "window", "end_ids", "pad_id"])
def test_whatever_is_read_of_an_unknown_model_is_a_user_error(read, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        getattr(ModelSource(str(tmp_path / "nowhere")), read)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json: save a model there first"):
        check_model(str(tmp_path))


def test_a_folder_without_weights_is_one_line(byte_model, tmp_path):
    folder = shutil.copytree(byte_model, tmp_path / "hollow")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load model") as caught:
        ModelSource(str(folder)).load("float32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"model_type": "unheard of"}', '{"architectures": null}'], ids=repr
)
def test_a_config_that_cannot_be_read_is_one_line(byte_model, tmp_path, content):
    folder = shutil.copytree(byte_model, tmp_path / "broken")
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match="cannot load model") as caught:
        check_model(str(folder))
    assert "\n" not in str(caught.value)
