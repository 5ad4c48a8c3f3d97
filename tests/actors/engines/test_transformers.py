"""The transformers engine: one sample whatever the batch, transformers' own greedy texts, and what ends a sample."""

import asyncio
import random

import pytest
import torch
from actors.models.names import encode_prompt, resolve_model
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, MistralConfig
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.mistral import MistralForCausalLM

from actors import transformers_engine
from actors.engines.protocol import SampleRequest
from actors.engines.transformers import TransformersEngine
from algorithms.row_errors import RowError
from algorithms.sampling import Sample, SamplingParams, choose_tokens

GREEDY = SamplingParams(temperature=0, max_tokens=24)
WORDS = "Tom has three apples and buys five more so how many does he have now if he eats one every day of the week"
PROMPTS = [WORDS[start : start + length] for start, length in enumerate([3, 40, 7, 90, 1, 12, 12, 60, 25, 5])]
REQUESTS = [SampleRequest(prompt, seed) for prompt in PROMPTS for seed in range(3)]


def draw(engine, requests):
    """The answers of calls that wait together: samples or errors."""

    async def together():
        return await asyncio.gather(*map(engine.sample, requests), return_exceptions=True)

    return asyncio.run(together())


def show_ids(engine):
    """Samples whose text is their token ids: bytes that are no UTF-8 would all look the same."""
    engine._decode = lambda ids: " ".join(map(str, ids))
    return engine


def what(samples):
    """All of the samples but their log-probabilities, which may differ in the last bits."""
    return [(sample.text, sample.num_tokens, sample.finish_reason) for sample in samples]


def watch(engine, see):
    """Call `see` with the arguments of every forward."""
    return engine.model.register_forward_pre_hook(lambda module, args, kwargs: see(kwargs), with_kwargs=True)


# --- choosing a token


def exponentials(*shape):
    return torch.empty(shape).exponential_(generator=torch.Generator().manual_seed(0))


def chi_square(tokens, probabilities):
    expected = probabilities * len(tokens)
    return ((torch.bincount(tokens, minlength=len(probabilities)) - expected) ** 2 / expected).sum().item()


def test_chosen_tokens_follow_the_softmax():
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0, 1.0])
    tokens, in_doubt = choose_tokens(logits.expand(20_000, 5), exponentials(20_000, 5), 0.7, 1.0)
    # 18.47 is the 99.9th percentile of chi-square with 4 degrees of freedom.
    assert chi_square(tokens, (logits / 0.7).softmax(-1)) < 18.47
    assert not in_doubt.any()


def test_chosen_tokens_follow_the_nucleus():
    # Before each, in order of probability: 0, 0.4, 0.7, 0.9 (twice: equally likely ones share a fate).
    probabilities = torch.tensor([0.05, 0.4, 0.2, 0.05, 0.3])
    nucleus_of = {0.0: [1], 0.39: [1], 0.41: [1, 4], 0.71: [1, 2, 4], 0.89: [1, 2, 4], 0.91: [0, 1, 2, 3, 4]}
    for top_p, nucleus in nucleus_of.items():
        logits = probabilities.log().expand(20_000, 5)
        tokens, _ = choose_tokens(logits, exponentials(20_000, 5), 1.0, top_p)
        assert tokens.unique().tolist() == nucleus
        kept = probabilities[nucleus] / probabilities[nucleus].sum()
        # 18.47 as above; smaller nuclei have fewer degrees of freedom.
        assert chi_square((tokens[:, None] == torch.tensor(nucleus)).nonzero()[:, 1], kept) < 18.47


def test_choosing_by_hand():
    # p / E: 0.5/1, 0.3/0.5, 0.2/0.5 -> the second; with top_p 0.5 only the first is in the nucleus.
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    times = torch.tensor([[1.0, 0.5, 0.5]])
    assert choose_tokens(logits, times, 1.0, 1.0)[0].tolist() == [1]
    assert choose_tokens(logits, times, 1.0, 0.5)[0].tolist() == [0]
    # Temperature 0.5 squares p: 0.25/1, 0.09/0.5, 0.04/0.5 -> the first.
    assert choose_tokens(logits, times, 0.5, 1.0)[0].tolist() == [0]
    assert choose_tokens(logits, None, 0, 0.1)[0].tolist() == [0]


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
def test_choices_in_doubt(logits, times, top_p, in_doubt):
    values = torch.tensor([logits]) if top_p == 1 else torch.tensor([logits]).log()
    assert choose_tokens(values, torch.tensor([times]).float(), 1.0, top_p, margin=1e-3)[1].tolist() == [in_doubt]


def test_greedy_is_in_doubt_between_equals():
    tokens, in_doubt = choose_tokens(torch.tensor([[0.0, 3.0, 2.9999], [0.0, 3.0, 2.0]]), None, 0, 1.0, margin=1e-3)
    assert tokens[1].item() == 1
    assert in_doubt.tolist() == [True, False]


# --- the same sample in any batch


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (0, 1.0)])
def test_samples_are_the_same_in_any_batch(byte_model, temperature, top_p):
    params = SamplingParams(temperature=temperature, top_p=top_p, max_tokens=40)
    engines = [show_ids(TransformersEngine(byte_model, params, max_batch=size)) for size in (1, 3, 8)]
    expected = what(draw(engines[0], REQUESTS))
    assert len({text for text, _, _ in expected}) == (len(PROMPTS) if temperature == 0 else len(REQUESTS))
    assert {reason for _, _, reason in expected} == ({"stop", "length"} if temperature else {"length"})
    for engine in engines[1:]:
        assert what(draw(engine, REQUESTS)) == expected
    order = random.Random(0).sample(range(len(REQUESTS)), 20)
    assert what(draw(engines[2], [REQUESTS[index] for index in order])) == [expected[index] for index in order]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (0, 1.0)])
def test_rounding_within_the_margin_changes_nothing(byte_model, temperature, top_p, monkeypatch):
    monkeypatch.setattr(transformers_engine, "MARGIN", 0.1)
    engine = show_ids(TransformersEngine(byte_model, SamplingParams(0, temperature, top_p, max_tokens=30)))
    expected = what(draw(engine, REQUESTS))
    generator = torch.Generator().manual_seed(1)

    def rounding(module, args, kwargs, output):
        if kwargs["use_cache"]:  # not a forward of a row alone
            output.logits += 0.05 * (2 * torch.rand(output.logits.shape, generator=generator) - 1)

    engine.model.register_forward_hook(rounding, with_kwargs=True)
    engine.tokens_in_doubt = 0
    assert what(draw(engine, REQUESTS)) == expected
    assert engine.tokens_in_doubt > 0
    monkeypatch.setattr(transformers_engine, "MARGIN", 0.0)
    assert what(draw(engine, REQUESTS)) != expected  # so the test can fail


def test_equal_prompts_are_computed_once(byte_model):
    shapes = []
    engine = TransformersEngine(byte_model, SamplingParams(max_tokens=2))
    watch(engine, lambda kwargs: shapes.append(tuple(kwargs["input_ids"].shape)))
    draw(engine, [SampleRequest("How many?", seed) for seed in range(5)])
    assert shapes == [(1, 9), (5, 1)]
    assert engine.tokens_generated == 10
    assert engine.forward_seconds > 0


# --- the same texts as transformers


def generated(model, tokenizer, prompt, max_tokens, **options):
    """transformers' own greedy ids, without the prompt's."""
    encoded = tokenizer(prompt, return_tensors="pt") if isinstance(prompt, str) else prompt
    output = model.generate(**encoded, do_sample=False, max_new_tokens=max_tokens, **options)
    return output[0, encoded["input_ids"].shape[1] :].tolist()


def without_end(ids, ends):
    return " ".join(map(str, ids[:-1] if ids[-1] in ends else ids))


def test_greedy_is_what_transformers_generates(byte_model):
    tokenizer, model = AutoTokenizer.from_pretrained(byte_model), AutoModelForCausalLM.from_pretrained(byte_model)
    samples = draw(show_ids(TransformersEngine(byte_model, GREEDY)), [SampleRequest(prompt, 0) for prompt in PROMPTS])
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids = generated(model, tokenizer, prompt, GREEDY.max_tokens, eos_token_id=[0, 2], pad_token_id=0)
        assert (sample.text, sample.num_tokens) == (without_end(ids, {0, 2}), len(ids))


def test_sliding_windows(byte_model, tmp_path):
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
    tokenizer = AutoTokenizer.from_pretrained(byte_model)
    tokenizer.save_pretrained(tmp_path)
    samples = draw(
        show_ids(TransformersEngine(str(tmp_path), GREEDY)), [SampleRequest(prompt, 0) for prompt in PROMPTS]
    )
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids = generated(model, tokenizer, prompt, GREEDY.max_tokens, eos_token_id=[0, 2], pad_token_id=0)
        assert sample.text == without_end(ids, {0, 2})


def test_the_embedded_model_chats_as_transformers_does():
    folder = resolve_model("smollm2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    chats = [(("user", text),) for text in ("What is 2 + 3?", "Name the capital of France, please.")]
    params = SamplingParams(temperature=0, max_tokens=12)
    samples = draw(TransformersEngine("smollm2", params), [SampleRequest(chat, 0) for chat in chats])
    for chat, sample in zip(chats, samples, strict=True):
        messages = [{"role": role, "content": content} for role, content in chat]
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        ids = generated(model, tokenizer, encoded, params.max_tokens)
        assert sample.text == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (0, 1.0)])
def test_mean_logprob_is_that_of_a_forward_of_its_own(byte_model, temperature, top_p):
    engine = show_ids(TransformersEngine(byte_model, SamplingParams(0, temperature, top_p, max_tokens=30)))
    engine._end_ids = {0}
    samples = draw(engine, REQUESTS)
    assert {sample.finish_reason for sample in samples} == ({"stop", "length"} if temperature else {"length"})
    tokenizer, model = AutoTokenizer.from_pretrained(byte_model), AutoModelForCausalLM.from_pretrained(byte_model)
    for request, sample in zip(REQUESTS, samples, strict=True):
        prompt = tokenizer(request.prompt)["input_ids"]
        ids = [int(word) for word in sample.text.split()] + [0] * (sample.finish_reason == "stop")
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


def say(folder, text, end="", prompt="??", **options):
    """The sample of a model that says `text`, then the token `end`, then stars."""
    engine = TransformersEngine(folder, SamplingParams(temperature=0, **options))
    ids = (
        encode_prompt(engine._tokenizer, text)
        + engine._tokenizer.convert_tokens_to_ids(list(end))
        + encode_prompt(engine._tokenizer, "*" * 99)
    )
    engine.model = Script(ids, len(encode_prompt(engine._tokenizer, prompt)))
    [sample] = draw(engine, [SampleRequest(prompt, 0)])
    return what([sample])[0]


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


def test_the_window_ends_a_sample(byte_model):
    engine = TransformersEngine(byte_model, SamplingParams(temperature=0, max_tokens=40))
    assert engine.window == 4096
    engine.window = 10
    engine.model = Script(encode_prompt(engine._tokenizer, "abcdefghijkl"), 4)
    fits, full = draw(engine, [SampleRequest("four", 0), SampleRequest("ten of ten", 0)])
    assert what([fits]) == [("abcdef", 6, "length")]
    assert isinstance(full, RowError)
    assert str(full) == "too_long: a prompt of 10 tokens, the model's window is 10"
    [empty] = draw(engine, [SampleRequest("", 0)])
    assert str(empty) == "empty_field: the prompt has no tokens"


def test_chats_use_the_models_template(byte_model):
    engine = TransformersEngine(byte_model, GREEDY)
    engine._tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
    )
    chat = (("system", "Be brief."), ("user", "2 + 2?"))
    as_chat, as_text = draw(engine, [SampleRequest(chat, 0), SampleRequest("<system>Be brief.<user>2 + 2?<me>", 0)])
    assert what([as_chat]) == what([as_text])


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


def test_an_adapter_is_sampled_as_peft_does(byte_model, tmp_path):
    adapter = save_adapter(tmp_path, AutoModelForCausalLM.from_pretrained(byte_model))
    requests = [SampleRequest(prompt, 0) for prompt in PROMPTS]
    samples = draw(show_ids(TransformersEngine(byte_model, GREEDY, adapter=adapter)), requests)
    assert what(samples) != what(draw(show_ids(TransformersEngine(byte_model, GREEDY)), requests))
    tokenizer = AutoTokenizer.from_pretrained(byte_model)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(byte_model), adapter)
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids = generated(model, tokenizer, prompt, GREEDY.max_tokens, eos_token_id=[0, 2], pad_token_id=0)
        assert sample.text == without_end(ids, {0, 2})


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_of_another_model_is_refused(byte_model, tmp_path, change):
    config = LlamaConfig.from_pretrained(byte_model)
    config.update(change)
    config.head_dim = config.hidden_size // config.num_attention_heads
    other = LlamaForCausalLM(config)
    other.config._name_or_path = other.name_or_path = "models/other"
    adapter = save_adapter(tmp_path, other)
    with pytest.raises(ValueError, match="made for 'models/other', does not fit model") as caught:
        TransformersEngine(byte_model, GREEDY, adapter=adapter)
    assert byte_model in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_of_a_model_of_equal_shapes_is_told(byte_model, tmp_path, caplog):
    other = AutoModelForCausalLM.from_pretrained(byte_model)
    other.config._name_or_path = other.name_or_path = "models/other"
    TransformersEngine(byte_model, GREEDY, adapter=save_adapter(tmp_path, other))
    assert f"fits model {byte_model!r}, but was made for 'models/other'" in caplog.text


def test_a_folder_without_an_adapter_is_refused(byte_model):
    with pytest.raises(ValueError, match=r"has no adapter_config\.json"):
        TransformersEngine(byte_model, GREEDY, adapter=byte_model)


# --- many calls, failures, memory


def test_what_the_model_raises_goes_to_all_who_wait(byte_model):
    engine = TransformersEngine(byte_model, GREEDY, max_batch=4)
    expected = what(draw(engine, REQUESTS[:9]))
    num_forwards = []

    def fail(kwargs):
        num_forwards.append(1)
        if len(num_forwards) > 5:
            raise RuntimeError("the model is broken")

    hook = watch(engine, fail)
    assert [str(error) for error in draw(engine, REQUESTS[:9])] == ["the model is broken"] * 9
    hook.remove()
    assert what(draw(engine, REQUESTS[:9])) == expected


def test_logits_that_are_no_numbers_are_no_sample(byte_model):
    engine = TransformersEngine(byte_model, SamplingParams())
    with torch.no_grad():
        engine.model.lm_head.weight[7] = float("nan")
    [error] = draw(engine, [SampleRequest("?", 0)])
    assert isinstance(error, RowError)
    assert error.reason == "not_finite"


def test_cancelled_calls_leave(byte_model):
    engine = show_ids(TransformersEngine(byte_model, GREEDY, max_batch=3))
    expected = what(draw(engine, REQUESTS[:9]))
    sizes = []

    async def some():
        tasks = [asyncio.create_task(engine.sample(request)) for request in REQUESTS[:9]]
        while not engine._rows:
            await asyncio.sleep(0)
        for task in [*tasks[:2], tasks[5]]:
            task.cancel()
        watch(engine, lambda kwargs: sizes.append(len(kwargs["input_ids"])))
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(some())
    assert [index for index, answer in enumerate(answers) if isinstance(answer, asyncio.CancelledError)] == [0, 1, 5]
    left = [2, 3, 4, 6, 7, 8]
    assert what(answers[index] for index in left) == [expected[index] for index in left]
    assert not engine._pending
    assert not engine._rows


def test_a_run_that_was_cut_off_leaves_nothing_behind(byte_model):
    engine = TransformersEngine(byte_model, SamplingParams(temperature=0, max_tokens=500), max_batch=2)

    async def impatient():
        async with asyncio.timeout(0.1):
            await asyncio.gather(*map(engine.sample, REQUESTS))

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    generated_before = engine.tokens_generated
    engine.params = GREEDY
    [sample] = draw(engine, REQUESTS[:1])
    assert isinstance(sample, Sample)
    assert engine.tokens_generated - generated_before == sample.num_tokens


def test_out_of_memory_halves_the_batch(byte_model, caplog):
    engine = show_ids(TransformersEngine(byte_model, SamplingParams(max_tokens=30), max_batch=8))
    expected = what(draw(engine, REQUESTS))

    def scarce(kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("no memory for three rows")

    watch(engine, scarce)
    assert what(draw(engine, REQUESTS)) == expected
    assert "out of memory with 8 rows: from now on" in caplog.text


def test_a_row_that_does_not_fit_alone_is_answered_so(byte_model):
    engine = show_ids(TransformersEngine(byte_model, GREEDY, max_batch=8))
    expected = what(draw(engine, REQUESTS[:3]))
    num_tokens = len(encode_prompt(engine._tokenizer, PROMPTS[3]))

    def scarce(kwargs):
        if kwargs["attention_mask"].shape[1] > num_tokens + 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    watch(engine, scarce)
    *fitting, long = draw(engine, [*REQUESTS[:3], SampleRequest(PROMPTS[3], 0)])
    assert what(fitting) == expected
    assert isinstance(long, RowError)
    assert long.reason == "out_of_memory"


def test_the_token_budget_bounds_the_cache(byte_model):
    engine = show_ids(TransformersEngine(byte_model, GREEDY, max_batch=8, token_budget=260))
    expected = what(draw(show_ids(TransformersEngine(byte_model, GREEDY)), REQUESTS))
    sizes = []
    watch(engine, lambda kwargs: sizes.append(kwargs["attention_mask"].numel()))
    assert what(draw(engine, REQUESTS)) == expected
    assert 200 < max(sizes) <= 260


def test_the_default_budget_comes_from_the_free_memory(byte_model):
    engine = TransformersEngine(byte_model, GREEDY, max_batch=5)
    assert engine.concurrency == 10
    # A column: keys and values, two layers, two heads of 16 floats. Free: 64 MB to 16 TB, a quarter, a third of it.
    assert 10**4 < engine.token_budget * (2 * 2 * 2 * 16 * 4) / 512 < 10**10
