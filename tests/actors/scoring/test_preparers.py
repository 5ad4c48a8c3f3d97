"""Preparation in a thread and in processes: what the tokenizer's own call gives, and what a crash does."""

import asyncio
import os

import numpy as np
import pytest

from actors.models.source import ModelSource
from actors.scoring.preparation import Preparation
from actors.scoring.preparers import ProcessPreparer, ThreadPreparer
from algorithms.perplexity import scored_tokens
from algorithms.refinement.policy import Policy
from algorithms.refinement.refine import refine
from algorithms.refinement.requests import ScoreRequest, Variant
from algorithms.row_errors import RowError

TEXTS = ("How many? 3 + 4\nis  7.", "多少？ 首先 1 加 2。 🙂", "<|im_start|>user e\u0301 = é", " leading space", "x")


class CrashingTokenizer:
    """Ends its process when it reads a certain text."""

    def no_truncation(self):
        pass

    no_padding = no_truncation

    def encode_batch(self, texts, add_special_tokens):
        if "CRASH" in texts:
            os._exit(7)
        return [text.split() for text in texts]


class PanicException(BaseException):
    """Named as the one of Rust."""


class PanickingTokenizer(CrashingTokenizer):
    def encode_batch(self, texts, add_special_tokens):
        raise PanicException("index out of bounds")


@pytest.fixture
def with_processes():
    """Builds preparers and closes them at the end."""
    made = []

    def build(tokenizer, **options):
        made.append(ProcessPreparer(tokenizer, 4096, num_processes=1, **options))
        return made[-1]

    yield build
    for preparer in made:
        preparer.close()


@pytest.mark.parametrize("model", ["byte_model", pytest.param("smollm2", marks=pytest.mark.slow)])
def test_tokens_and_spans_are_those_of_transformers(model, request):
    source = ModelSource(model if model == "smollm2" else request.getfixturevalue(model))
    tokenizer = source.tokenizer
    variants = [Variant(text, (2, len(text))) for text in TEXTS] + [Variant(text, None) for text in TEXTS]
    prepared = Preparation(tokenizer.backend_tokenizer, source.window)(ScoreRequest(tuple(variants)))
    for variant, text, scored in zip(variants, prepared.text_of, prepared.scored, strict=True):
        encoded = tokenizer(variant.text, return_offsets_mapping=True)
        assert prepared.forest.tokens[prepared.forest.paths[text]].tolist() == encoded["input_ids"]
        assert scored.tolist() == scored_tokens(encoded["offset_mapping"], variant.span).tolist()
    expected = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS]
    assert Preparation(tokenizer.backend_tokenizer, 9).count_tokens(TEXTS) == expected


def test_processes_prepare_what_a_thread_prepares(byte_model, gsm8k_chains, with_processes):
    tokenizer = ModelSource(byte_model).tokenizer.backend_tokenizer
    requests = [next(refine(chain, Policy(scope="suffix", keep_used=False))) for chain in gsm8k_chains[:4]]

    async def prepare_all(preparer):
        return await asyncio.gather(*map(preparer.prepare, requests), preparer.count_tokens(["ab", "c"]))

    thread = ThreadPreparer(tokenizer, 4096)
    *expected, counts = asyncio.run(prepare_all(thread))
    thread.close()
    *found, counts_of_processes = asyncio.run(prepare_all(with_processes(tokenizer)))
    assert counts == counts_of_processes == [2, 1]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.text_of, ours.tokens_naive) == (theirs.text_of, theirs.tokens_naive)
        for name in ("tokens", "parents", "depths", "subtree_end"):
            assert np.array_equal(getattr(ours.forest, name), getattr(theirs.forest, name))
        for mine, other in zip([*ours.forest.paths, *ours.scored], [*theirs.forest.paths, *theirs.scored], strict=True):
            assert np.array_equal(mine, other)


def test_a_row_that_kills_its_process_is_told_and_others_are_prepared(with_processes):
    preparer = with_processes(CrashingTokenizer())

    async def three():
        calls = (preparer.count_tokens([text]) for text in ("a b", "CRASH", "a b c"))
        return await asyncio.gather(*calls, return_exceptions=True)

    first, crash, last = asyncio.run(three())
    assert (first, last) == ([2], [3])
    assert isinstance(crash, RowError)
    assert str(crash) == "kills_the_process: preparing it, exit code 7"


def test_row_errors_come_out_of_a_process(byte_model, with_processes):
    preparer = with_processes(ModelSource(byte_model).tokenizer.backend_tokenizer)
    with pytest.raises(RowError, match="too_long: 5000 tokens"):
        asyncio.run(preparer.prepare(ScoreRequest((Variant("x" * 5000, None),))))


def test_a_panic_of_the_tokenizer_is_an_ordinary_exception():
    with pytest.raises(RuntimeError, match="the tokenizer failed: index out of bounds"):
        Preparation(PanickingTokenizer(), 9).count_tokens(["a"])
