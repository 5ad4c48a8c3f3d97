"""What tests share: one Ray for the whole run, a tiny byte model, the example data."""

import json
import os
import signal

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a hub
signal.signal(signal.SIGINT, signal.default_int_handler)  # the children of a background shell ignore it


@pytest.fixture(scope="session")
def ray_session():
    """A Ray with slots for many actors; jobs run in this process join it."""
    from jobs.driver import cluster

    assert "RAY_ADDRESS" not in os.environ, "tests start their own Ray: unset RAY_ADDRESS"
    with cluster.connect(20):
        yield


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory):
    """A folder with a random two-layer Llama over bytes, with grouped-query attention."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("byte_model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=alphabet[0]).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,  # large enough that losses differ
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def gsm8k_chains():
    """The example problems in GSM8K's format, as chains."""
    from algorithms.formats import parse_record
    from tests.fixtures.runs import EXAMPLES

    lines = (EXAMPLES / "gsm8k.jsonl").read_text().splitlines()
    return [parse_record(json.loads(line), "gsm8k", {}, None) for line in lines]


@pytest.fixture
def shared_data():
    """The folder with the whole corpora, which the repository does not contain. Skips the test without it."""
    from tests.benchmarks.measured import SHARED_DATA

    if not SHARED_DATA.exists():
        pytest.skip(f"needs the corpora in {SHARED_DATA}")
    return SHARED_DATA
