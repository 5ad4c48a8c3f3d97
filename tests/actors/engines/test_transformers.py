"""The transformers engine: one sample whatever the batch, transformers' own greedy texts, and what ends a sample."""

import asyncio
import random
import shutil
import time
import weakref
from contextlib import aclosing
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
)
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.mistral import MistralForCausalLM

from actors.engines import transformers as transformers_engine
from actors.engines.protocol import SampleRequest
from actors.engines.transformers import TransformersEngine
from actors.errors import UserError
from actors.models.source import ModelSource, encode_prompt
from algorithms.row_errors import RowError
from algorithms.sampling import Sample, SamplingParams, choose_tokens

GREEDY = SamplingParams(temperature=0, max_tokens=24)
SHAPES = [(1.0, 1.0), (0.7, 0.9), (0, 1.0)]  # temperature and top_p
WORDS = "Tom has three apples and buys five more so how many does he have now if he eats one every day of the week"
PROMPTS = [WORDS[start : start + length] for start, length in enumerate([3, 40, 7, 90, 1, 12, 12, 60, 25, 5])]


@pytest.fixture(scope="session")
def letter_model(byte_model, tmp_path_factory):
    """The byte model with one letter for each token it writes: bytes that are no UTF-8 would all look the same."""
    from tokenizers import decoders

    folder = shutil.copytree(byte_model, tmp_path_factory.mktemp("letter_model"), dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(byte_model)
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    tokenizer.save_pretrained(folder)
    return str(folder)


def ids_of(text, model):
    """The tokens of a text of the letter model."""
    return AutoTokenizer.from_pretrained(model).convert_tokens_to_ids(list(text))


def letters(ids, model):
    """The text of tokens of the letter model."""
    return "".join(AutoTokenizer.from_pretrained(model).convert_ids_to_tokens(ids))


def thirty(**params):
    """Requests for three samples of each prompt."""
    return [SampleRequest(prompt, SamplingParams(seed=seed, **params)) for prompt in PROMPTS for seed in range(3)]


def draw(engine, requests):
    """The answers of calls that wait together: samples or errors."""

    async def together():
        return await asyncio.gather(*map(engine.sample, requests), return_exceptions=True)

    return asyncio.run(together())


def what(samples):
    """All of the samples but their log-probabilities, which may differ in the last bits."""
    return [(sample.text, sample.num_tokens, sample.finish_reason) for sample in samples]


def watch(engine, see):
    """Call `see` with the arguments of every forward."""
    return engine.model.register_forward_pre_hook(lambda module, args, kwargs: see(kwargs), with_kwargs=True)


# --- choosing a token


def exponentials(*shape):
    return torch.empty(shape).exponential_(generator=torch.Generator().manual_seed(0))


def choose(logits, times, temperature, top_p, margin=0.0):
    """`choose_tokens` with the same parameters for all rows. Returns the tokens, and which are in doubt."""
    temperatures, top_ps = (torch.full((len(logits),), value, dtype=torch.float64) for value in (temperature, top_p))
    return choose_tokens(logits, torch.ones_like(logits) if times is None else times, temperatures, top_ps, margin)


def chi_square(tokens, probabilities):
    expected = probabilities * len(tokens)
    return ((torch.bincount(tokens, minlength=len(probabilities)) - expected) ** 2 / expected).sum().item()


def test_chosen_tokens_follow_the_softmax():
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0, 1.0])
    tokens, in_doubt = choose(logits.expand(20_000, 5), exponentials(20_000, 5), 0.7, 1.0)
    # 18.47 is the 99.9th percentile of chi-square with 4 degrees of freedom.
    assert chi_square(tokens, (logits / 0.7).softmax(-1)) < 18.47
    assert not in_doubt.any()


def test_chosen_tokens_follow_the_nucleus():
    # Before each, in order of probability: 0, 0.4, 0.7, 0.9 (twice: equally likely ones share a fate).
    probabilities = torch.tensor([0.05, 0.4, 0.2, 0.05, 0.3])
    nucleus_of = {0.0: [1], 0.39: [1], 0.41: [1, 4], 0.71: [1, 2, 4], 0.89: [1, 2, 4], 0.91: [0, 1, 2, 3, 4]}
    for top_p, nucleus in nucleus_of.items():
        logits = probabilities.log().expand(20_000, 5)
        tokens, _ = choose(logits, exponentials(20_000, 5), 1.0, top_p)
        assert tokens.unique().tolist() == nucleus
        kept = probabilities[nucleus] / probabilities[nucleus].sum()
        # 18.47 as above; smaller nuclei have fewer degrees of freedom.
        assert chi_square((tokens[:, None] == torch.tensor(nucleus)).nonzero()[:, 1], kept) < 18.47


def test_tokens_are_chosen_as_by_hand():
    # p / E: 0.5/1, 0.3/0.5, 0.2/0.5 -> the second; with top_p 0.5 only the first is in the nucleus.
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    times = torch.tensor([[1.0, 0.5, 0.5]])
    assert choose(logits, times, 1.0, 1.0)[0].tolist() == [1]
    assert choose(logits, times, 1.0, 0.5)[0].tolist() == [0]
    # Temperature 0.5 squares p: 0.25/1, 0.09/0.5, 0.04/0.5 -> the first.
    assert choose(logits, times, 0.5, 1.0)[0].tolist() == [0]
    assert choose(logits, None, 0, 0.1)[0].tolist() == [0]


@pytest.mark.parametrize(
    ("logits", "times", "top_p", "in_doubt"),
    [
        ([2.0, 1.0, 0.0], [1, 1, 1], 1.0, False),
        ([1.0005, 1.0, 0.0], [1, 1, 1], 1.0, True),  # the runner-up is as near as the margin
        ([1.0005, 0.0, 1.0], [1, 1, 5], 1.0, False),  # the race is decided, however equal the logits
        ([0.6, 0.3, 0.1], [9, 1, 9], 0.6, True),  # 0.6 is before the second: in or out
        ([0.6, 0.3, 0.1], [9, 1, 9], 0.61, False),
        ([0.6, 0.3, 0.1], [9, 1, 9], 0.59, False),  # out for sure; the first wins
        ([0.5001, 0.4999, 0.0001], [1, 9, 9], 0.3, True),  # which one is first decides which one is in
    ],
)
def test_a_choice_is_in_doubt_where_the_margin_could_turn_it(logits, times, top_p, in_doubt):
    values = torch.tensor([logits]) if top_p == 1 else torch.tensor([logits]).log()
    assert choose(values, torch.tensor([times]).float(), 1.0, top_p, margin=1e-3)[1].tolist() == [in_doubt]


def test_a_greedy_choice_is_in_doubt_between_equals():
    tokens, in_doubt = choose(torch.tensor([[0.0, 3.0, 2.9999], [0.0, 3.0, 2.0]]), None, 0, 1.0, margin=1e-3)
    assert tokens[1].item() == 1
    assert in_doubt.tolist() == [True, False]


def test_every_row_is_chosen_by_its_own_parameters():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(4, 3)
    times = torch.tensor([1.0, 0.5, 0.5]).expand(4, 3)
    temperatures, top_ps = torch.tensor([[1.0, 1.0, 0.5, 0.0], [1.0, 0.5, 1.0, 0.1]], dtype=torch.float64)
    assert choose_tokens(logits, times, temperatures, top_ps)[0].tolist() == [1, 0, 0, 0]  # as by hand, above


# --- the same sample in any batch


@pytest.mark.parametrize(("temperature", "top_p"), SHAPES)
def test_samples_are_the_same_in_any_batch(letter_model, temperature, top_p):
    requests = thirty(temperature=temperature, top_p=top_p, max_tokens=40)
    engines = [TransformersEngine(letter_model, max_batch=size) for size in (1, 3, 8)]
    expected = what(draw(engines[0], requests))
    assert len({text for text, _, _ in expected}) == (len(PROMPTS) if temperature == 0 else len(requests))
    assert {reason for _, _, reason in expected} == ({"stop", "length"} if temperature else {"length"})
    for engine in engines[1:]:
        assert what(draw(engine, requests)) == expected
    order = random.Random(0).sample(range(len(requests)), 20)
    assert what(draw(engines[2], [requests[index] for index in order])) == [expected[index] for index in order]


def mixed_requests(model):
    """Requests that differ in every sampling parameter, with stop texts that the model does write."""
    chance = random.Random(3)
    greedy = draw(TransformersEngine(model), [SampleRequest(prompt, GREEDY) for prompt in PROMPTS])
    requests = []
    for prompt, sample in zip(PROMPTS, greedy, strict=True):
        requests.append(SampleRequest(prompt, replace(GREEDY, stop=(sample.text[9:12],))))
        for _ in range(4):
            params = SamplingParams(
                temperature=chance.choice([0, 0.3, 0.7, 1.0, 1.5]),
                top_p=chance.choice([0.3, 0.9, 1.0]),
                max_tokens=chance.randint(1, 60),
                stop=chance.choice([(), ("e",), (sample.text[:2], "Zz"), tuple("abcdefgh")]),
                seed=chance.randrange(1 << 63),
            )
            requests.append(SampleRequest(prompt, params))
    return requests


def test_requests_with_other_parameters_change_no_sample(letter_model):
    requests = mixed_requests(letter_model)
    alone = TransformersEngine(letter_model, max_batch=1)
    expected = [what(draw(alone, [request]))[0] for request in requests]
    assert {reason for _, _, reason in expected} == {"stop", "length"}
    for size in (4, 64):
        assert what(draw(TransformersEngine(letter_model, max_batch=size), requests)) == expected


def test_each_request_ends_by_its_own_parameters(letter_model):
    [whole] = draw(TransformersEngine(letter_model), [SampleRequest(WORDS, GREEDY)])
    stop = whole.text[9:12]
    at = whole.text.index(stop)
    params = [GREEDY, replace(GREEDY, max_tokens=5), replace(GREEDY, stop=(stop,))]
    samples = draw(TransformersEngine(letter_model), [SampleRequest(WORDS, each) for each in params])
    assert what(samples) == [
        (whole.text, 24, "length"),
        (whole.text[:5], 5, "length"),
        (whole.text[:at], at + len(stop), "stop"),
    ]


@pytest.mark.parametrize(("temperature", "top_p"), SHAPES)
def test_rounding_within_the_margin_changes_nothing(letter_model, temperature, top_p, monkeypatch):
    monkeypatch.setattr(transformers_engine, "MARGIN", 0.1)
    requests = thirty(temperature=temperature, top_p=top_p, max_tokens=30)
    engine = TransformersEngine(letter_model)
    expected = what(draw(engine, requests))
    generator = torch.Generator().manual_seed(1)

    def rounding(module, args, kwargs, output):
        if kwargs["use_cache"]:  # not a forward of a row alone
            output.logits += 0.05 * (2 * torch.rand(output.logits.shape, generator=generator) - 1)

    engine.model.register_forward_hook(rounding, with_kwargs=True)
    engine.tokens_in_doubt = 0
    assert what(draw(engine, requests)) == expected
    assert engine.tokens_in_doubt > 0
    monkeypatch.setattr(transformers_engine, "MARGIN", 0.0)
    assert what(draw(engine, requests)) != expected  # so the test can fail


def test_equal_prompts_are_computed_once(byte_model):
    shapes = []
    engine = TransformersEngine(byte_model)
    watch(engine, lambda kwargs: shapes.append(tuple(kwargs["input_ids"].shape)))
    draw(engine, [SampleRequest("How many?", SamplingParams(max_tokens=2, seed=seed)) for seed in range(5)])
    assert shapes == [(1, 9), (5, 1)]
    assert engine.tokens_generated == 10
    assert engine.forward_seconds > 0


# --- the same texts as transformers


def generated(model, tokenizer, prompt, max_tokens, **options):
    """transformers' own greedy ids, without the prompt's."""
    encoded = tokenizer(prompt, return_tensors="pt") if isinstance(prompt, str) else prompt
    output = model.generate(**encoded, do_sample=False, max_new_tokens=max_tokens, **options)
    return output[0, encoded["input_ids"].shape[1] :].tolist()


def assert_generated(samples, model, folder):
    """The greedy samples of PROMPTS are those of transformers' `generate`, token by token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids = generated(model, tokenizer, prompt, GREEDY.max_tokens, eos_token_id=[0, 2], pad_token_id=0)
        text = letters(ids[:-1] if ids[-1] in (0, 2) else ids, folder)
        assert (sample.text, sample.num_tokens) == (text, len(ids))


def greedy_samples(folder, **options):
    return draw(TransformersEngine(folder, **options), [SampleRequest(prompt, GREEDY) for prompt in PROMPTS])


def test_greedy_is_what_transformers_generates(letter_model):
    assert_generated(greedy_samples(letter_model), AutoModelForCausalLM.from_pretrained(letter_model), letter_model)


def test_greedy_is_what_transformers_generates_with_sliding_windows(letter_model, tmp_path):
    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.3,
    )
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(letter_model).save_pretrained(tmp_path)
    assert_generated(greedy_samples(str(tmp_path)), model, str(tmp_path))


@pytest.mark.slow
def test_the_embedded_model_chats_as_transformers_does():
    folder = ModelSource("smollm2").path
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    chats = [(("user", text),) for text in ("What is 2 + 3?", "Name the capital of France, please.")]
    params = SamplingParams(temperature=0, max_tokens=12)
    samples = draw(TransformersEngine("smollm2"), [SampleRequest(chat, params) for chat in chats])
    for chat, sample in zip(chats, samples, strict=True):
        messages = [{"role": role, "content": content} for role, content in chat]
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        ids = generated(model, tokenizer, encoded, params.max_tokens)
        assert sample.text == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(("temperature", "top_p"), SHAPES)
def test_mean_logprob_is_that_of_a_forward_of_its_own(letter_model, tmp_path, temperature, top_p):
    folder = shutil.copytree(letter_model, tmp_path / "one_end")
    GenerationConfig(eos_token_id=0).save_pretrained(folder)  # so that the token that ended a sample is known
    requests = thirty(temperature=temperature, top_p=top_p, max_tokens=30)
    samples = draw(TransformersEngine(str(folder)), requests)
    assert {sample.finish_reason for sample in samples} == ({"stop", "length"} if temperature else {"length"})
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    for request, sample in zip(requests, samples, strict=True):
        prompt = tokenizer(request.prompt)["input_ids"]
        ids = ids_of(sample.text, folder) + [0] * (sample.finish_reason == "stop")
        assert len(ids) == sample.num_tokens
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(ids)), ids].mean().item()
        assert sample.mean_logprob == pytest.approx(expected, abs=1e-4)


# --- what ends a sample


class Script:
    """A model that says one text, whatever the prompt, and nothing of keys and values."""

    def __init__(self, ids, num_prompt):
        self.ids = ids
        self.num_prompt = num_prompt

    def __call__(self, *, attention_mask, **unused):
        logits = torch.zeros(len(attention_mask), 1, 256)
        for row, length in enumerate(attention_mask.sum(-1).tolist()):
            logits[row, 0, self.ids[length - self.num_prompt]] = 20.0
        return CausalLMOutput(logits=logits)


def speaker(folder, text, end="", prompt="??"):
    """An engine whose model says `text`, then the token `end`, then stars."""
    engine, tokenizer = TransformersEngine(folder), AutoTokenizer.from_pretrained(folder)
    ids = (
        encode_prompt(tokenizer, text) + tokenizer.convert_tokens_to_ids(list(end)) + encode_prompt(tokenizer, "*" * 99)
    )
    engine.model = Script(ids, len(encode_prompt(tokenizer, prompt)))
    return engine


def say(folder, text, end="", prompt="??", **params):
    """The sample of a model that says `text`, then the token `end`, then stars."""
    request = SampleRequest(prompt, SamplingParams(temperature=0, **params))
    return what(draw(speaker(folder, text, end, prompt), [request]))[0]


END = "!"  # the byte tokenizer's end-of-sequence token


@pytest.mark.parametrize(
    ("text", "end", "stop", "expected"),
    [
        ("So it is 42.\n\nQuestion: two", "", ("\n\n",), ("So it is 42.", 14, "stop")),
        ("one, two; three", "", ("two", "; t"), ("one, ", 8, "stop")),  # the one that is complete first
        ("aab", "", ("b", "aab"), ("", 3, "stop")),  # complete together: cut at the earlier one
        ("eins é; zwei", "", ("é;",), ("eins ", 8, "stop")),  # é is two tokens
        ("so 🙂 yes", "", ("🙂",), ("so ", 7, "stop")),  # four tokens
        ("?: a", END, ("?:?",), ("?: a", 5, "stop")),  # what the prompt ends with is no part
        ("never", END, ("that",), ("never", 6, "stop")),
        ("ends", END, (), ("ends", 5, "stop")),
        ("", END, (), ("", 1, "stop")),
        ("twelve letters", "", (), ("twelve lette", 12, "length")),
        ("at the limit", "", ("mit",), ("at the li", 12, "stop")),
    ],
)
def test_what_ends_a_sample(byte_model, text, end, stop, expected):
    max_tokens = 12 if "twelve" in text or "limit" in text else 40
    assert say(byte_model, text, end, stop=stop, max_tokens=max_tokens) == expected


SPECIAL = "Ń"  # a letter of the byte tokenizer that no text of these tests encodes to


@pytest.fixture(scope="session")
def special_model(byte_model, tmp_path_factory):
    """The byte model with a special token that does not end its texts."""
    folder = shutil.copytree(byte_model, tmp_path_factory.mktemp("special_model"), dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(byte_model)
    tokenizer.add_special_tokens({"additional_special_tokens": [SPECIAL]})
    tokenizer.save_pretrained(folder)
    assert len(AutoTokenizer.from_pretrained(folder)) == 256
    return str(folder)


@pytest.mark.parametrize("stop", [(SPECIAL,), ("that", SPECIAL), (SPECIAL, "x")])
def test_a_special_token_is_a_stop_text(special_model, stop):
    assert say(special_model, "so 42", SPECIAL, stop=stop, max_tokens=40) == ("so 42", 6, "stop")


def test_a_stop_text_before_a_special_token_ends_the_sample(special_model):
    assert say(special_model, "so 42", SPECIAL, stop=("4", SPECIAL), max_tokens=40) == ("so ", 4, "stop")


def test_a_special_token_ends_only_the_samples_that_stop_there(special_model):
    engine = speaker(special_model, "so 42", SPECIAL)
    params = [SamplingParams(temperature=0, max_tokens=8, stop=stop) for stop in ((SPECIAL,), (), ("42*",))]
    samples = draw(engine, [SampleRequest("??", each) for each in params])
    assert what(samples) == [("so 42", 6, "stop"), ("so 42**", 8, "length"), ("so ", 7, "stop")]


def test_the_window_ends_a_sample(byte_model):
    engine = speaker(byte_model, "abcdefghijkl", prompt="four")
    assert engine.window == 4096
    engine.window = 10
    params = SamplingParams(temperature=0, max_tokens=40)
    assert what(draw(engine, [SampleRequest("four", params)])) == [("abcdef", 6, "length")]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("ten of ten", "too_long: a prompt of 10 tokens, the model's window is 10"),
        ("", "empty_field: the prompt has no tokens"),
    ],
)
def test_a_prompt_that_leaves_no_room_is_the_rows_fault(byte_model, prompt, message):
    engine = TransformersEngine(byte_model)
    engine.window = 10
    [error] = draw(engine, [SampleRequest(prompt, GREEDY)])
    assert isinstance(error, RowError)
    assert str(error) == message
    [error] = asyncio.run(streamed(engine, SampleRequest(prompt, GREEDY)))
    assert isinstance(error, RowError)
    assert str(error) == message


def test_chats_use_the_models_template(byte_model, tmp_path):
    folder = shutil.copytree(byte_model, tmp_path / "chats")
    tokenizer = AutoTokenizer.from_pretrained(byte_model)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    prompts = (("system", "Be brief."), ("user", "2 + 2?")), "<system>Be brief.<user>2 + 2?<me>"
    as_chat, as_text = draw(TransformersEngine(str(folder)), [SampleRequest(prompt, GREEDY) for prompt in prompts])
    assert as_chat.num_tokens == 24
    assert what([as_chat]) == what([as_text])


# --- streams


async def streamed(engine, *requests):
    """The pieces of streams that run together: a list of pieces or an error for each."""

    async def pieces(request):
        return [piece async for piece in engine.stream(request)]

    return await asyncio.gather(*map(pieces, requests), return_exceptions=True)


def assert_whole(pieces):
    """Only the last piece carries the sample, whose text is that of all pieces. Returns the sample."""
    assert [piece.sample for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert "".join(piece.text for piece in pieces) == pieces[-1].sample.text
    return pieces[-1].sample


@pytest.mark.parametrize("model", ["letter_model", "byte_model"])  # most samples of the byte model are no UTF-8
def test_streams_give_the_text_of_samples(letter_model, request, model):
    folder, requests = request.getfixturevalue(model), mixed_requests(letter_model)
    expected = what(draw(TransformersEngine(folder, max_batch=8), requests))
    streams = asyncio.run(streamed(TransformersEngine(folder, max_batch=8), *requests))
    assert what(map(assert_whole, streams)) == expected


def test_streams_and_samples_decode_together(letter_model):
    requests = thirty(max_tokens=20)
    engine = TransformersEngine(letter_model, max_batch=8)
    expected = what(draw(engine, requests))

    async def both():
        samples = asyncio.gather(*map(engine.sample, requests[::2]))
        return await streamed(engine, *requests[1::2]), await samples

    streams, samples = asyncio.run(both())
    assert what(samples) == expected[::2]
    assert what(map(assert_whole, streams)) == expected[1::2]


def test_a_piece_comes_with_every_token(letter_model):
    [pieces] = asyncio.run(streamed(TransformersEngine(letter_model), SampleRequest(WORDS, GREEDY)))
    sample = assert_whole(pieces)
    assert [piece.text for piece in pieces] == list(sample.text)


@pytest.mark.parametrize(
    ("text", "end", "stop", "pieces"),
    [
        ("a two b", END, ("twice",), ["a", " ", "two", " ", "b", ""]),  # "tw" may begin it, "two" does not
        ("a two", "", ("two",), ["a", " ", ""]),
        ("a tw", END, ("two",), ["a", " ", "tw"]),  # at the end it is no stop text
        ("né 🙂", END, (), ["n", "é", " ", "🙂", ""]),
        ("né;", "", ("é;",), ["n", ""]),
    ],
)
def test_pieces_are_whole_characters_and_no_part_of_a_stop_text(byte_model, text, end, stop, pieces):
    request = SampleRequest("??", SamplingParams(temperature=0, stop=stop, max_tokens=40))
    [found] = asyncio.run(streamed(speaker(byte_model, text, end), request))
    assert_whole(found)
    assert [piece.text for piece in found] == pieces


def test_a_stream_ends_at_a_special_token(special_model):
    request = SampleRequest("??", SamplingParams(temperature=0, stop=(SPECIAL,), max_tokens=40))
    [found] = asyncio.run(streamed(speaker(special_model, "so 42", SPECIAL), request))
    assert what([assert_whole(found)]) == [("so 42", 6, "stop")]


# --- adapters


def save_adapter(folder, base, seed=0):
    """A LoRA adapter of a model with weights that matter."""
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder, save_embedding_layers=False)
    return str(folder)


def test_an_adapter_is_sampled_as_peft_does(letter_model, tmp_path):
    adapter = save_adapter(tmp_path, AutoModelForCausalLM.from_pretrained(letter_model))
    samples = greedy_samples(letter_model, adapter=adapter)
    assert what(samples) != what(greedy_samples(letter_model))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(letter_model), adapter)
    assert_generated(samples, model, letter_model)


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_of_another_model_is_refused(byte_model, tmp_path, change):
    config = LlamaConfig.from_pretrained(byte_model)
    config.update(change)
    config.head_dim = config.hidden_size // config.num_attention_heads
    other = LlamaForCausalLM(config)
    other.config._name_or_path = other.name_or_path = "models/other"
    adapter = save_adapter(tmp_path, other)
    with pytest.raises(UserError, match="made for 'models/other', does not fit model") as caught:
        TransformersEngine(byte_model, adapter=adapter)
    assert byte_model in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_of_a_model_of_equal_shapes_is_told(byte_model, tmp_path, caplog):
    other = AutoModelForCausalLM.from_pretrained(byte_model)
    other.config._name_or_path = other.name_or_path = "models/other"
    TransformersEngine(byte_model, adapter=save_adapter(tmp_path, other))
    assert f"fits model {byte_model!r}, but was made for 'models/other'" in caplog.text


def test_a_folder_without_an_adapter_is_refused(byte_model):
    with pytest.raises(UserError, match=r"has no adapter_config\.json"):
        TransformersEngine(byte_model, adapter=byte_model)


# --- failures


def test_what_the_model_raises_goes_to_all_who_wait(letter_model):
    engine, requests = TransformersEngine(letter_model, max_batch=4), thirty(temperature=0, max_tokens=24)[:9]
    expected = what(draw(engine, requests))
    num_forwards = []

    def fail(kwargs):
        num_forwards.append(1)
        if len(num_forwards) > 5:
            raise RuntimeError("the model is broken")

    hook = watch(engine, fail)
    assert [str(error) for error in draw(engine, requests)] == ["the model is broken"] * 9
    hook.remove()
    assert what(draw(engine, requests)) == expected


def test_what_the_model_raises_ends_streams(letter_model):
    engine = TransformersEngine(letter_model)

    def fail(kwargs):
        if kwargs["attention_mask"].shape[1] > 10:
            raise RuntimeError("the model is broken")

    watch(engine, fail)
    assert [str(error) for error in asyncio.run(streamed(engine, SampleRequest("??", GREEDY)))] == [
        "the model is broken"
    ]


def test_logits_that_are_no_numbers_are_no_sample(byte_model):
    engine = TransformersEngine(byte_model)
    with torch.no_grad():
        engine.model.lm_head.weight[7] = float("nan")
    [error] = draw(engine, [SampleRequest("?", SamplingParams())])
    assert isinstance(error, RowError)
    assert error.reason == "not_finite"


# --- cancelled calls

LONG = SampleRequest("??", SamplingParams(temperature=0, max_tokens=3000))
SHORT = SampleRequest("a short one", SamplingParams(temperature=0, max_tokens=3))


class Forwards:
    """The shapes and the caches of an engine's forwards, except those of a row alone."""

    def __init__(self, engine):
        self.shapes = []
        self.caches = []
        watch(engine, self._see)

    def _see(self, kwargs):
        if kwargs["use_cache"]:
            self.shapes.append(tuple(kwargs["input_ids"].shape))
            self.caches.append(weakref.ref(kwargs["past_key_values"]))

    async def at_least(self, count):
        while len(self.shapes) < count:
            await asyncio.sleep(0.001)


async def start_sample(engine, request):
    return asyncio.create_task(engine.sample(request))


async def start_stream(engine, request):
    async def read():
        async with aclosing(engine.stream(request)) as pieces:
            async for _ in pieces:
                pass

    return asyncio.create_task(read())


@pytest.mark.parametrize("start", [start_sample, start_stream])
def test_a_cancelled_call_leaves_its_place_to_the_next(letter_model, start):
    engine = TransformersEngine(letter_model, max_batch=1)
    expected = what(draw(engine, [SHORT]))
    forwards = Forwards(engine)

    async def cancel_the_first():
        first = await start(engine, LONG)
        second = asyncio.create_task(engine.sample(SHORT))
        await forwards.at_least(5)
        before = len(forwards.shapes)
        first.cancel()
        return before, await second

    before, sample = asyncio.run(cancel_the_first())
    assert what([sample]) == expected
    # The step that was going on may end, then the second row is computed: its prompt, and 2 more tokens.
    assert forwards.shapes[before:][-3:] == [(1, 11), (1, 1), (1, 1)]
    assert len(forwards.shapes[before:]) <= 4


@pytest.mark.parametrize("start", [start_sample, start_stream])
def test_a_cancelled_call_frees_its_keys_and_values(letter_model, start):
    engine = TransformersEngine(letter_model)
    forwards = Forwards(engine)

    async def cancel():
        call = await start(engine, LONG)
        await forwards.at_least(5)
        assert forwards.caches[-1]() is not None
        before = len(forwards.shapes)
        call.cancel()
        deadline = time.monotonic() + 5
        while forwards.caches[-1]() is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        return before

    before = asyncio.run(cancel())
    assert len(forwards.shapes) <= before + 1
    assert [cache() for cache in forwards.caches] == [None] * len(forwards.caches)


def test_a_stream_that_is_left_leaves_its_place(letter_model):
    engine = TransformersEngine(letter_model, max_batch=1)
    forwards = Forwards(engine)

    async def leave():
        async with aclosing(engine.stream(LONG)) as pieces:
            first = await anext(pieces)
        before = len(forwards.shapes)
        return first, before, await engine.sample(SHORT)

    first, before, sample = asyncio.run(leave())
    assert (len(first.text), first.sample) == (1, None)
    assert what([sample]) == what(draw(TransformersEngine(letter_model), [SHORT]))
    assert len(forwards.shapes[before:]) <= 4


def test_cancelled_calls_leave_the_others_as_they_are(letter_model):
    engine, requests = TransformersEngine(letter_model, max_batch=3), thirty(temperature=0, max_tokens=24)[:9]
    expected = what(draw(engine, requests))
    forwards = Forwards(engine)

    async def cancel_some():
        tasks = [asyncio.create_task(engine.sample(request)) for request in requests]
        await forwards.at_least(3)
        for task in [*tasks[:2], tasks[5]]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(cancel_some())
    assert [index for index, answer in enumerate(answers) if isinstance(answer, asyncio.CancelledError)] == [0, 1, 5]
    left = [2, 3, 4, 6, 7, 8]
    assert what(answers[index] for index in left) == [expected[index] for index in left]


def test_a_call_that_is_cancelled_while_it_waits_is_never_computed(letter_model):
    engine = TransformersEngine(letter_model, max_batch=1)
    forwards = Forwards(engine)

    async def cancel_the_second():
        first = asyncio.create_task(engine.sample(SampleRequest("??", GREEDY)))
        second = asyncio.create_task(engine.sample(SHORT))
        await forwards.at_least(2)
        second.cancel()
        return await first

    assert asyncio.run(cancel_the_second()).num_tokens == 24
    assert forwards.shapes == [(1, 2)] + [(1, 1)] * 23


def test_a_run_that_was_cut_off_leaves_nothing_behind(byte_model):
    engine = TransformersEngine(byte_model, max_batch=2)

    async def impatient():
        async with asyncio.timeout(0.1):
            await asyncio.gather(*map(engine.sample, thirty(temperature=0, max_tokens=500)))

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    generated_before = engine.tokens_generated
    [sample] = draw(engine, [SampleRequest(PROMPTS[0], GREEDY)])
    assert isinstance(sample, Sample)
    assert engine.tokens_generated - generated_before == sample.num_tokens


# --- memory


def test_out_of_memory_halves_the_batch(letter_model, caplog):
    engine, requests = TransformersEngine(letter_model, max_batch=8), thirty(max_tokens=30)
    expected = what(draw(engine, requests))

    def scarce(kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("no memory for three rows")

    watch(engine, scarce)
    assert what(draw(engine, requests)) == expected
    assert "out of memory with 8 rows: the budget is now" in caplog.text


def test_a_row_that_does_not_fit_alone_is_answered_so(letter_model):
    engine, requests = TransformersEngine(letter_model, max_batch=8), thirty(temperature=0, max_tokens=24)[:3]
    expected = what(draw(engine, requests))

    def scarce(kwargs):
        if kwargs["attention_mask"].shape[1] > len(PROMPTS[3]) + 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    watch(engine, scarce)
    *fitting, long = draw(engine, [*requests, SampleRequest(PROMPTS[3], GREEDY)])
    assert what(fitting) == expected
    assert isinstance(long, RowError)
    assert long.reason == "out_of_memory"


def test_the_token_budget_bounds_the_cache(letter_model):
    engine, requests = TransformersEngine(letter_model, token_budget=260), thirty(temperature=0, max_tokens=24)
    expected = what(draw(TransformersEngine(letter_model), requests))
    sizes = []
    watch(engine, lambda kwargs: sizes.append(kwargs["attention_mask"].numel()))
    assert what(draw(engine, requests)) == expected
    assert 200 < max(sizes) <= 260


def test_the_default_budget_comes_from_the_free_memory(byte_model):
    engine = TransformersEngine(byte_model, max_batch=5)
    assert engine.concurrency == 10
    # A column: keys and values, two layers, two heads of 16 floats. Free: 64 MB to 16 TB, a quarter, a third of it.
    assert 10**4 < engine.token_budget * (2 * 2 * 2 * 16 * 4) / 512 < 10**10
