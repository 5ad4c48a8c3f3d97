"""The forest scorer against separate forwards of the same model, and its behaviour at its limits."""

import json
import math
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.errors import UserError
from actors.models.checks import check_model
from actors.models.source import ModelSource
from actors.scoring.attention import forest_attention
from actors.scoring.forest_scorer import ForestScorer
from actors.scoring.head import LossHead
from algorithms.chains import Chain
from algorithms.refinement.policy import RECIPES, Policy
from algorithms.refinement.refine import refine
from algorithms.refinement.requests import ScoreRequest, Variant
from algorithms.row_errors import RowError
from tests.fixtures.plain_loop import PlainLoop
from tests.fixtures.refining import prepare

EVERY_STEP = Policy(scope="suffix", keep_used=False)  # scores two variants of every step


@pytest.fixture(scope="module")
def byte_scorer(byte_model):
    return ForestScorer(byte_model)


@pytest.fixture(scope="module")
def embedded_scorer():
    return ForestScorer("smollm2", dtype="float32")


class SeparateForwards:
    """Perplexity of one variant from a forward of its own, with transformers' own attention and loss."""

    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def __call__(self, variant):
        encoded = self.tokenizer(variant.text, return_offsets_mapping=True, return_tensors="pt")
        ids, labels = encoded["input_ids"], encoded["input_ids"].clone()
        if variant.span is not None:
            start, stop = variant.span
            for position, (left, right) in enumerate(encoded["offset_mapping"][0].tolist()):
                if right <= start or left >= stop or left == right:
                    labels[0, position] = -100
        if (labels[0, 1:] == -100).all():
            return math.inf
        return math.exp(self.model(input_ids=ids, labels=labels).loss.item())


CHAINS = {
    "one step": Chain("How many?", ("Just 3.",), "3"),
    "equal steps": Chain("How many?", ("Add 1.", "Add 1.", "Add 1.", "That makes 3."), "3"),
    "empty steps": Chain("How many?", ("", "Add 1.", "", "", "That makes 3."), "3"),
    "other alphabets": Chain("多少？", ("首先 1 加 2。", "Ответ: 3 🙂", "e\u0301 = é", "so 3"), "3"),
    "no answer step": Chain("Why?", ("Because.", "And so."), "42"),
    "sixty steps": Chain("Count.", tuple(f"After {i} comes {i + 1}." for i in range(60)), "60"),
}


def drive(scorer, chain, policy, check=None):
    """Refine one chain with a scorer; `check(request, scored)` sees every answer."""
    generator, task = refine(chain, policy), None
    request = next(generator)
    while True:
        task = prepare(scorer, request, task)
        [scored] = scorer.score([task])
        if check:
            check(request, scored)
        try:
            request = generator.send(scored.perplexities)
        except StopIteration as stop:
            return stop.value


@pytest.mark.parametrize("scope", ["completion", "answer", "full", "suffix"])
@pytest.mark.parametrize("name", [name for name in CHAINS if name != "sixty steps"])
def test_every_perplexity_equals_its_own_forward(byte_model, byte_scorer, name, scope):
    separate = SeparateForwards(byte_model)

    def check(request, scored):
        expected = [separate(variant) for variant in request.variants]
        assert scored.perplexities == pytest.approx(expected, rel=1e-4)

    # Everything below infinity is removed, so that many rounds run.
    drive(byte_scorer, CHAINS[name], replace(EVERY_STEP, t1=100, t2=100, scope=scope), check)


@pytest.mark.slow
def test_sixty_steps_with_bytes(byte_model, byte_scorer):
    separate = SeparateForwards(byte_model)
    rounds = []

    def check(request, scored):
        if len(rounds) < 2:
            expected = [separate(variant) for variant in request.variants]
            assert scored.perplexities == pytest.approx(expected, rel=1e-4)
        rounds.append(scored.tokens_naive / scored.tokens_forwarded)

    result = drive(byte_scorer, CHAINS["sixty steps"], replace(EVERY_STEP, t1=100, t2=100, scope="completion"), check)
    assert len(result.edits) == 59
    assert rounds[0] > 1.9  # n + 1 sequences share half their tokens on average


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_every_perplexity_of_the_embedded_model_equals_its_own_forward(embedded_scorer, name):
    separate = SeparateForwards(ModelSource("smollm2").path)
    request = next(refine(CHAINS[name], RECIPES["digest"] if name == "equal steps" else EVERY_STEP))
    some = request.variants if len(request.variants) < 10 else request.variants[::12]
    [scored] = embedded_scorer.score([prepare(embedded_scorer, ScoreRequest(some))])
    assert scored.perplexities == pytest.approx([separate(variant) for variant in some], rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_digest_recipe_decides_as_the_plain_loop_does(embedded_scorer, gsm8k_chains):
    folder = ModelSource("smollm2").path
    plain = PlainLoop(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)
    )
    for chain in gsm8k_chains[:6]:  # the benchmark refine_cost compares 100
        expected = plain.refine(chain.question, chain.steps)
        assert list(drive(embedded_scorer, chain, RECIPES["digest"]).steps) == expected


def score_all(scorer, names=("equal steps", "empty steps", "no answer step")):
    tasks = [prepare(scorer, next(refine(CHAINS[name], EVERY_STEP))) for name in names]
    return [scored.perplexities for scored in scorer.score(tasks)]


def test_passes_smaller_than_a_forest_change_nothing(byte_model, byte_scorer):
    expected = score_all(byte_scorer)
    for token_budget, state_tokens in ((64, 10**6), (64, 0), (7, 0)):
        small = ForestScorer(byte_model, token_budget=token_budget, state_tokens=state_tokens)
        for ours, theirs in zip(score_all(small), expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)


def test_without_room_for_states_rounds_are_computed_again_and_agree(byte_model, byte_scorer):
    forgetful = ForestScorer(byte_model, state_tokens=0)
    tokens = {byte_scorer: 0, forgetful: 0}
    results = []
    for scorer in tokens:

        def check(request, scored, scorer=scorer):
            tokens[scorer] += scored.tokens_forwarded

        few = Chain("Count.", tuple(f"After {i} comes {i + 1}." for i in range(9)), "9")
        results.append(drive(scorer, few, replace(EVERY_STEP, t1=100, t2=100), check))
    assert results[0].steps == results[1].steps
    assert tokens[byte_scorer] < tokens[forgetful]


def test_a_scope_that_moves_scores_nodes_it_already_has(byte_model, byte_scorer):
    separate = SeparateForwards(byte_model)
    text = "one two three four"
    first = prepare(byte_scorer, ScoreRequest((Variant(text, (14, 18)),)))
    byte_scorer.score([first])
    moved = Variant(text, (4, 13))
    second = prepare(byte_scorer, ScoreRequest((moved,)), first)
    assert second.num_new_tokens == 0
    [scored] = byte_scorer.score([second])
    assert scored.perplexities == pytest.approx([separate(moved)], rel=1e-4)


def watch(scorer, see):
    """Call `see(tokens, parts)` after every forward pass of a scorer's model, before its result is used."""
    scorer.model.base_model.register_forward_hook(
        lambda module, args, kwargs, output: see(kwargs["input_ids"].shape[1], kwargs["forest_parts"]), with_kwargs=True
    )


def limit_memory(scorer, tokens):
    """Let forward passes above a number of tokens run out of memory, as the CPU allocator says it.

    Returns a list that gets the size of each pass that failed.
    """
    failed = []

    def see(size, parts):
        if size > tokens:
            failed.append(size)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    watch(scorer, see)
    return failed


def test_out_of_memory_halves_the_budget_and_loses_nothing(byte_model, byte_scorer):
    scorer = ForestScorer(byte_model)
    failed = limit_memory(scorer, tokens=100)
    for ours, theirs in zip(score_all(scorer), score_all(byte_scorer), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert failed
    assert 50 <= scorer.token_budget <= 100


def test_out_of_memory_between_two_rounds_of_another_row_loses_nothing(byte_model, byte_scorer):
    policy, results = replace(EVERY_STEP, t1=100, t2=100), []
    for scorer in (byte_scorer, ForestScorer(byte_model, state_tokens=2000)):
        generator = refine(CHAINS["equal steps"], policy)
        first = prepare(scorer, next(generator))
        [scored] = scorer.score([first])
        second = prepare(scorer, generator.send(scored.perplexities), first)
        assert 0 < second.num_new_tokens < len(second.forest)
        if scorer is not byte_scorer:
            failed = limit_memory(scorer, tokens=64)
            score_all(scorer, ("empty steps",))  # frees the states that `second` counts on
            assert failed
        results.append(scorer.score([second])[0].perplexities)
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_out_of_memory_in_what_is_kept_computes_the_row_again(byte_model, byte_scorer, monkeypatch):
    scorer = ForestScorer(byte_model)
    first = prepare(scorer, ScoreRequest((Variant("Two and two make four.", (12, 22)),)))
    scorer.score([first])
    moved = Variant("Two and two make four.", (0, 22))  # the loss of the reused tokens is not known yet
    second = prepare(scorer, ScoreRequest((moved,)), first)
    assert second.num_new_tokens == 0
    failed = []

    def fail_once(head, hidden, *arguments):
        if not failed:
            failed.append(len(hidden))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(head, hidden, *arguments)

    losses = LossHead.losses
    monkeypatch.setattr(LossHead, "losses", fail_once)
    [scored] = scorer.score([second])
    assert failed
    assert scored.perplexities == pytest.approx(
        byte_scorer.score([prepare(byte_scorer, ScoreRequest((moved,)))])[0].perplexities
    )


def test_a_row_that_does_not_fit_alone_is_an_error_and_others_are_scored(byte_model, byte_scorer):
    scorer = ForestScorer(byte_model)

    def see(size, parts):
        if max(len(part.task.forest) for part in parts) > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory")

    watch(scorer, see)
    tasks = [prepare(scorer, next(refine(CHAINS[name], EVERY_STEP))) for name in ("sixty steps", "equal steps")]
    too_large, fine = scorer.score(tasks)
    assert isinstance(too_large, RowError)
    assert too_large.reason == "out_of_memory"
    assert fine.perplexities == pytest.approx(score_all(byte_scorer, ("equal steps",))[0], rel=1e-5)


def test_other_errors_are_not_taken_for_memory(byte_model):
    scorer = ForestScorer(byte_model)

    def see(size, parts):
        raise RuntimeError("the device is on fire")

    watch(scorer, see)
    with pytest.raises(RuntimeError, match="on fire"):
        score_all(scorer)


def test_rows_that_cannot_be_scored_say_why(byte_scorer):
    with pytest.raises(RowError, match="too_long: 5000 tokens, the model's window is 4096"):
        prepare(byte_scorer, ScoreRequest((Variant("x" * 5000, None),)))
    with pytest.raises(RowError, match="nothing_to_score"):
        prepare(byte_scorer, ScoreRequest((Variant("question", (8, 8)),)))


def test_a_loss_that_is_not_finite_is_the_rows_error(byte_model):
    scorer = ForestScorer(byte_model)
    with torch.inference_mode():
        scorer.model.lm_head.weight[ord("y") % 256 :].fill_(float("nan"))
    [result] = scorer.score([prepare(scorer, ScoreRequest((Variant("xyz", None),)))])
    assert isinstance(result, RowError)
    assert result.reason == "not_finite"


def change_config(byte_model, folder, **changes):
    """A copy of the byte model whose config differs."""
    shutil.copytree(byte_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


def test_sliding_windows_are_followed(byte_model, tmp_path):
    folder = change_config(
        byte_model, tmp_path / "m", model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=12
    )
    scorer, separate = ForestScorer(folder), SeparateForwards(folder)
    request = next(refine(CHAINS["equal steps"], EVERY_STEP))
    [scored] = scorer.score([prepare(scorer, request)])
    assert scored.perplexities == pytest.approx([separate(variant) for variant in request.variants], rel=1e-4)
    assert scored.perplexities != pytest.approx(score_all(ForestScorer(byte_model), ("equal steps",))[0], rel=1e-3)


def test_a_model_whose_attention_is_another_is_refused(byte_model, monkeypatch):
    def sees_everything(module, query, key, value, mask, forest_parts=(), **rest):
        for part in forest_parts:
            part.mask = torch.zeros_like(part.mask)
        return forest_attention(module, query, key, value, mask, forest_parts=forest_parts, **rest)

    monkeypatch.setattr("actors.scoring.forest_scorer.forest_attention", sees_everything)
    with pytest.raises(UserError, match="cannot be scored exactly"):
        ForestScorer(byte_model)


def test_a_tokenizer_without_offsets_is_refused(tmp_path, byte_model):
    slow = tmp_path / "slow"
    change_config(byte_model, slow)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (slow / name).unlink()
    (slow / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    with pytest.raises(UserError, match="no character offsets"):
        check_model(str(slow), offsets=True)


def test_results_survive_pickling(byte_scorer):
    [scored] = byte_scorer.score([prepare(byte_scorer, next(refine(CHAINS["one step"], EVERY_STEP)))])
    assert pickle.loads(pickle.dumps(scored)) == scored
