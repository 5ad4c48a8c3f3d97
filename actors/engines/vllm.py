"""Samples from vLLM's AsyncLLM, which runs its engine in a child process of this one.

Prompts are encoded here, as the transformers engine encodes them, so both engines get the same tokens. Batching, seeds
and stop texts are vLLM's own. A LoRA goes with each request; the tensor-parallel ranks run on the GPUs that Ray gave
to this process.

If vLLM's engine process dies, every call raises EngineDied. This process must end then, so that the journal can isolate
the prompt that killed it. If this process dies, a guard ends vLLM's processes, which would keep their memory for ever.
"""

import itertools
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from actors.engines.protocol import Piece, SampleRequest
from actors.errors import EngineDied, UserError
from actors.models.source import ModelSource, encode_prompt, split_stops
from actors.processes.guard import DeathGuard
from algorithms.row_errors import RowError
from algorithms.sampling import FinishReason, Sample

logger = logging.getLogger(__name__)

FINISH_REASONS: Final[dict[str, FinishReason]] = {"stop": "stop", "length": "length"}


class VllmEngine:
    """Draws samples from a model with vLLM, with a LoRA folder on it if given.

    `arguments` are those of vLLM's AsyncEngineArgs. Raises UserError if vLLM does not start. On a CPU, vLLM 0.29 fails
    on a request's own seed once a prompt is computed in chunks, so requests are not seeded there; `arguments["seed"]`
    seeds the engine.
    """

    def __init__(
        self,
        model: str | ModelSource,
        *,
        adapter: str | None = None,
        on_gpu: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        if not on_gpu:
            # vLLM keeps one core free by default, however few there are.
            os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        from vllm import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError

        source = ModelSource.of(model)
        arguments = {"logprobs_mode": "raw_logprobs", "disable_log_stats": True, **(arguments or {})}
        self._guard = DeathGuard()
        try:
            with self._guard.adopting():
                self._llm: Any = AsyncLLM.from_engine_args(
                    AsyncEngineArgs(model=source.path, revision=source.revision, **arguments)
                )
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"vLLM does not start: {' '.join(str(error).split())[:300]}. The cause is in Ray's worker logs. It is "
                "often memory: try --engine-kwargs gpu_memory_utilization 0.5, or a smaller --max-model-len"
            ) from None
        self._dead: type[Exception] = EngineDeadError
        self._tokenizer = source.tokenizer
        self._window = int(self._llm.model_config.max_model_len)
        self._lora = LoRARequest("adapter", 1, adapter) if adapter else None
        self._is_seeded = on_gpu
        self._ids = itertools.count()
        self._num_in_flight = 0
        self._busy_since = self._busy_seconds = 0.0
        self.concurrency = 2 * int(self._llm.vllm_config.scheduler_config.max_num_seqs)

    @property
    def forward_seconds(self) -> float:
        """Seconds in which at least one request was in flight."""
        running = time.perf_counter() - self._busy_since if self._num_in_flight else 0.0
        return self._busy_seconds + running

    @property
    def num_unfinished(self) -> int:
        """Requests that vLLM itself counts as unfinished."""
        return int(self._llm.output_processor.get_num_unfinished_requests())

    async def sample(self, request: SampleRequest) -> Sample:
        """Draw one sample."""
        async with aclosing(self._generate(request, whole=True)) as outputs:
            async for output in outputs:
                if output.finished:
                    return _sample(output, request)
        raise EngineDied("vLLM ended a sample without its last output")

    async def stream(self, request: SampleRequest) -> AsyncGenerator[Piece]:
        """Draw one sample, piece by piece."""
        num_sent = 0
        async with aclosing(self._generate(request, whole=False)) as outputs:
            async for output in outputs:
                drawn = output.outputs[0]
                piece, num_sent = drawn.text[num_sent:], len(drawn.text)
                sample = _sample(output, request) if output.finished else None
                yield Piece(piece, len(drawn.token_ids), sample)

    def close(self) -> None:
        """End vLLM's processes."""
        self._llm.shutdown()
        self._guard.close()

    async def _generate(self, request: SampleRequest, whole: bool) -> AsyncGenerator[Any]:
        """vLLM's outputs for a request. Closing the generator aborts the request."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineGenerateError

        ids = encode_prompt(self._tokenizer, request.prompt)
        if not ids:
            raise RowError("empty_field", "the prompt has no tokens")
        if len(ids) >= self._window:
            raise RowError("too_long", f"a prompt of {len(ids)} tokens, the model's window is {self._window}")
        params = request.params
        stop_ids, stops = split_stops(self._tokenizer, params.stop)
        settings = SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            max_tokens=params.max_tokens,
            stop=list(stops),
            stop_token_ids=list(stop_ids),
            seed=params.seed if self._is_seeded else None,
            logprobs=0,  # of the chosen tokens, before temperature
            output_kind=RequestOutputKind.FINAL_ONLY if whole else RequestOutputKind.CUMULATIVE,
        )
        prompt: Any = {"prompt_token_ids": ids}
        outputs = self._llm.generate(prompt, settings, str(next(self._ids)), lora_request=self._lora)
        self._enter()
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        except self._dead as error:
            raise EngineDied(f"vLLM's engine process died: {error}") from None
        except (VLLMClientError, EngineGenerateError, ValueError) as error:
            raise RowError("engine_error", " ".join(str(error.__cause__ or error).split())[:200]) from None
        finally:
            self._leave()

    def _enter(self) -> None:
        if self._num_in_flight == 0:
            self._busy_since = time.perf_counter()
        self._num_in_flight += 1

    def _leave(self) -> None:
        self._num_in_flight -= 1
        if self._num_in_flight == 0:
            self._busy_seconds += time.perf_counter() - self._busy_since


def _sample(finished: Any, request: SampleRequest) -> Sample:
    """The sample of a finished output. Raises RowError if vLLM did not finish it itself."""
    output = finished.outputs[0]
    reason = FINISH_REASONS.get(output.finish_reason)
    if reason is None:
        raise RowError("engine_error", f"vLLM ended the sample with {output.finish_reason!r}")
    num_tokens = len(output.token_ids)
    mean = output.cumulative_logprob / num_tokens if num_tokens else None
    tokens = None
    if request.token_logprobs:
        chosen = [each[token] for token, each in zip(output.token_ids, output.logprobs or (), strict=True)]
        tokens = tuple((each.decoded_token or "", each.logprob) for each in chosen)
    return Sample(output.text, num_tokens, reason, mean, tokens, len(finished.prompt_token_ids))
