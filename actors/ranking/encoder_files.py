"""The files of an encoder ranker: weights, the trunk's config and the tokenizer, enough to load it without a hub.

ranker.json          settings, calibration, and the names of the other files
weights.safetensors  trunk and head
config.json, tokenizer files   as transformers writes them
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from transformers import AutoConfig, AutoModel, AutoTokenizer

from actors.errors import UserError
from actors.models.source import ModelSource
from actors.runs.storage import Storage
from algorithms.ranking.encoder_head import EncoderNetwork

WEIGHTS: Final = "weights.safetensors"


def load_network(source: ModelSource) -> EncoderNetwork:
    """The network to train: the trunk with its weights, and a new head. Raises UserError if the model is missing."""
    return _network(source.load("float32", AutoModel), source.config)


def check_trunk(source: ModelSource) -> None:
    """Raise UserError if the model cannot be a trunk. Loads no weights."""
    if getattr(source.config, "is_encoder_decoder", False):
        raise UserError(f"--model {source.name}: an encoder-decoder has no single trunk: name an encoder or a decoder")


def save_network(network: EncoderNetwork, tokenizer: Any, folder: Storage) -> list[str]:
    """Write the files into a folder. Returns their names."""
    with tempfile.TemporaryDirectory() as local:
        save_model(network, str(Path(local) / WEIGHTS))
        network.trunk.config.save_pretrained(local)
        tokenizer.save_pretrained(local)
        paths = sorted(path for path in Path(local).rglob("*") if path.is_file())
        for path in paths:
            (folder / path.name).write_bytes(path.read_bytes())
    return [path.name for path in paths]


def read_network(folder: Storage, names: list[str]) -> tuple[EncoderNetwork, Any]:
    """The network and the tokenizer in a folder. Raises UserError if a file is missing or does not fit."""
    with _local_copy(folder, names) as local:
        try:
            config = AutoConfig.from_pretrained(local)
            network = _network(AutoModel.from_config(config), config)
            load_model(network, str(Path(local) / WEIGHTS))
            return network, AutoTokenizer.from_pretrained(local)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the ranker in {folder.path} cannot be loaded: {reason}: train it again") from None


@contextmanager
def _local_copy(folder: Storage, names: list[str]) -> Iterator[str]:
    """A folder of this machine with the named files. The ranker's own folder may be on an object store."""
    if folder.is_local:
        yield folder.path
        return
    with tempfile.TemporaryDirectory() as local:
        for name in names:
            (Path(local) / name).write_bytes((folder / name).read_bytes())
        yield local


def _network(trunk: Any, config: Any) -> EncoderNetwork:
    """Trunk and head. A pooler over the first token is dropped: nothing uses it."""
    if getattr(trunk, "pooler", None) is not None:
        trunk.pooler = None
    trunk.config.use_cache = False  # a decoder would keep keys and values, for tokens that never come
    return EncoderNetwork(trunk, int(config.get_text_config().hidden_size))
