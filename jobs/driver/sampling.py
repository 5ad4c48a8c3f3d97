"""The flags that say how samples are drawn, of every verb that draws some."""

from typing import Annotated, Literal

from pydantic import Field

from actors.engines.build import ENGINES
from algorithms.prompts import INSTRUCTION
from jobs.driver.command import JobConfig, choice, listed


class SamplingFlags(JobConfig):
    """Engine, adapter, sampling parameters and prompt. What the engine samples from is the verb's own."""

    engine: Annotated[str, choice(ENGINES)] = Field(
        default="transformers",
        description=listed("What draws the samples.", {name: kind.description for name, kind in ENGINES.items()}),
    )
    adapter: str | None = None
    """Folder of a PEFT adapter for the model, or of a run of jobs.train."""
    url: str | None = None
    """URL of the endpoint, such as https://api.example.com/v1."""
    temperature: float = Field(default=0.7, ge=0)
    """0 always takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw only from the most likely tokens that together have this probability."""
    max_tokens: int = Field(default=512, ge=1)
    """Maximum length of a sample."""
    stop: tuple[str, ...] = ()
    """Texts that end a sample and are not part of it."""
    seed: int = 0
    """Seed of the samples. With transformers, the same seed gives the same samples however they are batched."""
    template: str | None = None
    """Prompt text with {question} in it, or a file with such a text, instead of the model's chat template."""
    instruction: str = INSTRUCTION
    """Text below each question in the chat template. "" for none."""
    few_shot: str | None = None
    """File of JSON lines with question and solution: worked examples before each question."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and activations. auto: bfloat16 on a GPU, float32 on a CPU."""
    max_batch: int | None = Field(default=None, ge=1)
    """Samples that an actor decodes at once. Default: 32; vLLM chooses its own."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Context window of the vLLM engine. Default: the model's."""
    engine_kwargs: dict[str, str] = Field(default_factory=dict)
    """Further arguments of vLLM's AsyncEngineArgs, in pairs: --engine-kwargs gpu_memory_utilization 0.5."""
    concurrency: int = Field(default=32, ge=1)
    """Requests that an actor sends to the endpoint at once."""
    patience_hours: float = Field(default=4.0, gt=0)
    """How long the endpoint may fail before the run stops. Repeat the command to resume."""
