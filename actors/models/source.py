"""A model by name, pinned to the revision that was checked.

The driver checks a name once (`actors.models.checks`) and hands the pinned source to its workers, so every worker
loads the revision that the manifest records, even if the hub's default branch moves during the run.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from actors.errors import UserError
from actors.models.embedded import FOLDERS
from algorithms.sampling import Prompt

UNBOUNDED = 1 << 30  # tokens; the window of a model whose config names none


@dataclass(frozen=True)
class ModelSource:
    """What `from_pretrained` loads: a folder, a hub model, or the embedded model.

    `name` is what the user gave. `revision` is the commit of a hub model, and None for a folder or an unpinned name.
    Reading anything raises UserError if the model cannot be found.
    """

    name: str
    revision: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelSource, (self.name, self.revision)  # without the config and tokenizer that it has read

    @classmethod
    def of(cls, model: "str | ModelSource") -> "ModelSource":
        """A source from a name; a source stays as it is."""
        return model if isinstance(model, ModelSource) else cls(model)

    @cached_property
    def path(self) -> str:
        """The first argument of `from_pretrained`: a folder or a hub name."""
        if self.name in FOLDERS:
            return str(FOLDERS[self.name]())
        path = Path(self.name).expanduser()
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise UserError(f"model folder {self.name!r} has no config.json: save a model there first")
            return str(path.resolve())
        if path.is_absolute() or self.name.startswith((".", "~")) or self.name.count("/") > 1:
            raise UserError(f"model folder {self.name!r} does not exist")
        return self.name

    @cached_property
    def config(self) -> Any:
        """The model's config."""
        from transformers import AutoConfig

        return self._read(AutoConfig)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        from transformers import AutoTokenizer

        return self._read(AutoTokenizer)

    @cached_property
    def commit(self) -> str | None:
        """The commit that a hub name stands for, from the config that was fetched last; None for a folder."""
        from transformers.utils.hub import cached_file, extract_commit_hash

        if Path(self.path).is_dir():
            return None
        return extract_commit_hash(cached_file(self.path, "config.json", **self._pin, local_files_only=True), None)

    @property
    def window(self) -> int:
        """Tokens that the model sees at most: the smaller limit of its config and its tokenizer."""
        of_config = getattr(self.config.get_text_config(), "max_position_embeddings", None) or UNBOUNDED
        return min(int(of_config), int(self.tokenizer.model_max_length), UNBOUNDED)

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end a text of this model."""
        from transformers import GenerationConfig

        try:
            ends = GenerationConfig.from_pretrained(self.path, revision=self.revision or "main").eos_token_id
        except OSError:  # a model without a generation config
            ends = self.config.get_text_config().eos_token_id
        several = ends if isinstance(ends, list) else [ends]
        return frozenset({*several, self.tokenizer.eos_token_id} - {None})

    @property
    def pad_id(self) -> int:
        """A token to pad with. Padding is masked, so any token will do."""
        tokenizer = self.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)

    def load(self, dtype: str, model_class: Any = None, device: str | None = None) -> Any:
        """The model with its weights in `dtype`. `model_class` is AutoModelForCausalLM by default.

        The weights go straight to `device`, without a whole copy in the CPU's memory; without `device` they are on the
        CPU.
        """
        import torch
        from transformers import AutoModelForCausalLM

        placed = {} if device is None else {"device_map": {"": device}}
        return self._read(model_class or AutoModelForCausalLM, dtype=getattr(torch, dtype), **placed)

    def empty(self, model_class: Any = None) -> Any:
        """The model's layers without weights (on the meta device), for checks that need only shapes."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            return (model_class or AutoModelForCausalLM).from_config(self.config)

    @property
    def _pin(self) -> dict[str, str]:
        return {} if self.revision is None else {"revision": self.revision}

    def _read(self, loader: Any, **settings: Any) -> Any:
        path = self.path
        try:
            return loader.from_pretrained(path, **self._pin, **settings)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"cannot load model {self.name!r}: {reason}. "
                f"Name a model folder, a hub model that this machine can reach, or {' or '.join(FOLDERS)}"
            ) from None


def resolve_dtype(dtype: str, device: str) -> str:
    """The dtype that `auto` stands for: bfloat16 on a GPU, float32 on a CPU."""
    return {"auto": "bfloat16" if device == "cuda" else "float32"}.get(dtype, dtype)


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The token ids of a prompt. A text is encoded as it stands, a conversation in the tokenizer's chat template."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt, verbose=False)["input_ids"])
    messages = [{"role": role, "content": content} for role, content in prompt]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def split_stops(tokenizer: Any, stops: tuple[str, ...]) -> tuple[frozenset[int], tuple[str, ...]]:
    """Stop texts as tokens and texts: special tokens, which decoding leaves out, and texts to look for."""
    special = {str(token): id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = {special[stop] for stop in stops if stop in special}
    return frozenset(ids), tuple(stop for stop in stops if stop not in special)
