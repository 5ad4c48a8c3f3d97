"""What clients send: the fields of OpenAI's interface that a student can honour, and the block `adaptive`.

Fields that no answer depends on (`user`, `metadata`, ...) are accepted. Fields that an answer would depend on are
accepted with the value that means "off", and refused otherwise: a client must not believe that tools were offered.
"""

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from algorithms.answers.kinds import DEFAULT, KINDS
from algorithms.sampling import Message
from serve.settings import MOST_SAMPLES

STOPS: Final = 16
OFF: Final[dict[str, tuple[Any, ...]]] = {  # unsupported fields, and the values that ask for nothing
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
}
IGNORED: Final = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "parallel_tool_calls", "verbosity",
    }
)  # fmt: skip
OF_ANSWERS: Final = frozenset({"refusal", "tool_calls", "function_call", "audio", "annotations"})
ROLES: Final = {"developer": "system"}  # OpenAI's newer name


def _encodable(text: str) -> str:
    """JSON can escape half a character, which no tokenizer and no reply can hold."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("the text has an unpaired surrogate")
    return text


Text: TypeAlias = Annotated[str, AfterValidator(_encodable)]
Seed: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Tokens: TypeAlias = Annotated[int, Field(ge=1, lt=2**31)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class AnswerFields(_Model):
    """What counts as an answer, and when two answers are the same."""

    kind: str = Field(default=DEFAULT, json_schema_extra={"enum": list(KINDS)})
    """mathematics: the stated answer, compared as mathematics. number: the same, or the last number. choice: the letter
    of an option. text: what follows "answer:", or the whole text. json: a field of the last JSON object."""
    field: Text | None = Field(default=None, max_length=200)
    """kind json: the name of the field, such as result.value."""

    @model_validator(mode="after")
    def _check(self) -> "AnswerFields":
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}")
        if (KINDS[self.kind].argument is None) != (self.field is None):
            raise ValueError("kind json needs a field, and no other kind has one")
        return self


class AdaptiveFields(_Model):
    """How an answer is voted on. What is left out has the server's default."""

    max_samples: int | None = Field(default=None, ge=1, le=MOST_SAMPLES)
    """Samples at most."""
    min_samples: int | None = Field(default=None, ge=1, le=MOST_SAMPLES)
    """Samples at least."""
    parallel: int | None = Field(default=None, ge=1, le=MOST_SAMPLES)
    """Samples on their way at once. More answer sooner; fewer waste less."""
    confidence: float | None = Field(default=None, gt=0, lt=1)
    """Stop when the leading answer will very probably stay ahead: with this probability."""
    max_total_tokens: Tokens | None = None
    """Tokens of all samples together."""
    deadline_seconds: float | None = Field(default=None, gt=0)
    """The answer that leads then is returned."""
    answer: AnswerFields = AnswerFields()


class StreamOptions(_Model):
    """Options of a streamed reply."""

    include_usage: bool = False
    """A last chunk tells the usage."""
    include_obfuscation: bool = False
    """Accepted, and without effect."""


class TextPart(_Model):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Model):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: str | None = None
    """Accepted, and without effect."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_empty(cls, data: Any) -> Any:
        """A client may send an answer back as it came, with the fields that were null in it."""
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if name not in OF_ANSWERS or value not in (None, [])}

    def as_message(self) -> Message:
        """Role and text, as chat templates take them."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ROLES.get(self.role, self.role), content


class SamplingFields(_Model):
    """What both endpoints take."""

    model: Text = Field(max_length=500)
    """A student that /v1/models lists."""
    adaptive: AdaptiveFields | bool | None = None
    """How the answer is voted on. false: plain generation, which n above 1 asks for as well."""
    n: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    """Choices; more than one are plain samples, without a vote."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """With 0 all samples are the same, so one is drawn."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: Tokens | None = None
    """Tokens of a sample at most."""
    stop: Text | list[Text] | None = None
    """Texts that end a sample and are not part of it."""
    seed: Seed | None = None
    """The same seed draws the same samples, where the engine can repeat them."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_off(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if name in IGNORED or (name in OFF and name not in cls.model_fields and _is_off(value, OFF[name])):
                continue
            if name in OFF and name not in cls.model_fields:
                raise ValueError(f"{name} is not supported")
            if value is not None or name not in cls.model_fields or cls.model_fields[name].is_required():
                kept[name] = value  # null stands for the default
        return kept

    @field_validator("stop")
    @classmethod
    def _check_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        texts = [stop] if isinstance(stop, str) else stop or []
        if len(texts) > STOPS or not all(texts):
            raise ValueError(f"at most {STOPS} texts, none of them empty")
        return stop

    @model_validator(mode="after")
    def _check_modes(self) -> "SamplingFields":
        if self.n > 1 and self.adaptive not in (None, False):
            raise ValueError("n above 1 asks for plain samples: leave out adaptive, or n")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options need stream=true")
        return self

    @property
    def is_vote(self) -> bool:
        """Whether the answer is voted on."""
        return self.n == 1 and self.adaptive is not False

    @property
    def vote(self) -> AdaptiveFields:
        """How it is voted on."""
        return self.adaptive if isinstance(self.adaptive, AdaptiveFields) else AdaptiveFields()

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a sample."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(SamplingFields):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Tokens | None = None
    """The newer name of max_tokens."""
    logprobs: bool | None = None
    """Return the log-probability of each token."""

    @model_validator(mode="after")
    def _check_tokens(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        return self


class CompletionRequest(SamplingFields):
    """The body of /v1/completions. The prompt is taken as it stands: a vote adds no instruction."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    """One text."""
    logprobs: int | None = Field(default=None, ge=0, le=1)
    """0 or 1: return the log-probability of each token."""


def _is_off(value: Any, off: tuple[Any, ...]) -> bool:
    return value is None or any(type(value) is type(each) and value == each for each in off) or _is_zero(value, off)


def _is_zero(value: Any, off: tuple[Any, ...]) -> bool:
    return isinstance(value, float) and value == 0 and 0 in off
