"""Samples from a causal language model with transformers: continuous batching, the same sample in any batch.

Needs torch and transformers, no Ray. Rows of different lengths decode together, aligned at the right. A row that
ends leaves at once, waiting ones take the free places. A prompt that several new rows share is computed once.

The same prompt and seed give the same sample. The randomness of a token comes from the seed and the token's place
in the sample alone. The logits do depend on the batch, in their last bits: matrices of other shapes are summed in
another order (4e-5 seen in float32 where logits are about 20). So a choice that a change of MARGIN / 2 in the
logits could turn is in doubt (`algorithms.sampling.choose_tokens`), and is made again from a forward of that row
alone, without a cache, which no batch can influence. This holds for float32. In half precision logits move by
hundredths: samples still follow the model, but repeat only where they are batched the same way. `mean_logprob`
is what the batch gave, equal up to rounding.

Shape legend: B batch, L columns in the cache, T new ones, H query heads, G key/value heads, D head size, V vocabulary.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from actors.engine_protocol import SampleRequest
from actors.models import encode_prompt, end_ids, load_adapter, resolve_model
from actors.row_cache import RowCache, grouped_attention
from algorithms.row_errors import RowError
from algorithms.sampling import FinishReason, Sample, SamplingParams, choose_tokens

logger = logging.getLogger(__name__)

MARGIN: Final = 5e-4  # in logits
PREFILL_TOKENS: Final = 8192  # of one forward of new rows, padding counted
ATTENTION: Final = "sluice_grouped"
LAYERS: Final = {"full_attention", "sliding_attention"}  # they keep nothing but keys and values


@dataclass(eq=False, slots=True)
class _Row:
    """A sample on its way. `ids` are the prompt's, then its own; the cache holds all but the newest."""

    future: asyncio.Future[Sample]
    seed: int
    ids: list[int]
    num_prompt: int
    max_length: int  # of `ids`
    logprob: float = 0.0


Answer: TypeAlias = tuple[_Row, Sample | BaseException]


class TransformersEngine:
    """Draws samples from a model (a folder, a hub name or `smollm2`), with a PEFT adapter folder on it if given.

    At most `max_batch` rows decode together, as many as at their full length fit `token_budget` columns of keys and
    values (default: a third of the free memory). Raises ValueError for a model or an adapter it cannot sample from.
    """

    def __init__(
        self,
        model: str,
        params: SamplingParams,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        max_batch: int = 32,
        token_budget: int | None = None,
        num_threads: int | None = None,
        adapter: str | None = None,
    ) -> None:
        if num_threads:
            torch.set_num_threads(num_threads)
        self.params = params
        self.device = torch.device(device)
        self.max_batch = max_batch
        self.concurrency = 2 * max_batch
        resolved = resolve_model(model)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(resolved)
        loaded: Any = AutoModelForCausalLM.from_pretrained(resolved, dtype=getattr(torch, dtype))
        config = loaded.config.get_text_config()
        if not set(getattr(config, "layer_types", None) or ()) <= LAYERS:
            raise ValueError(f"model {model!r} keeps more than keys and values, which cannot be batched here")
        self.model = (load_adapter(loaded, model, adapter) if adapter else loaded).to(self.device).eval()
        if self.device.type == "cpu" and self.model.config._attn_implementation == "sdpa":
            AttentionInterface.register(ATTENTION, grouped_attention)
            AttentionMaskInterface.register(ATTENTION, sdpa_mask)
            self.model.set_attn_implementation(ATTENTION)
        self._end_ids = end_ids(resolved)
        # A stop text of n bytes lies in the last n tokens; a few more, for the first may decode to half a character.
        self._tail = max((len(stop.encode()) for stop in params.stop), default=0) + 4
        self.window = min(getattr(config, "max_position_embeddings", None) or 1 << 30, self._tokenizer.model_max_length)
        self.forward_seconds = 0.0
        self.tokens_generated = 0
        self.tokens_in_doubt = 0
        self.token_budget = token_budget or self._default_token_budget()
        self._pending: set[_Row] = set()
        self._driver: asyncio.Task[None] | None = None
        self._forget()

    async def sample(self, request: SampleRequest) -> Sample:
        """Draw one sample. Raises RowError when the prompt leaves the sample no room."""
        ids = encode_prompt(self._tokenizer, request.prompt)
        max_length = min(len(ids) + self.params.max_tokens, self.window)
        if not ids:
            raise RowError("empty_field", "the prompt has no tokens")
        if max_length <= len(ids):
            raise RowError("too_long", f"a prompt of {len(ids)} tokens, the model's window is {self.window}")
        row = _Row(asyncio.get_running_loop().create_future(), request.seed, ids, len(ids), max_length)
        self._pending.add(row)
        self._waiting.append(row)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        try:
            return await row.future
        finally:
            self._pending.discard(row)

    async def _drive(self) -> None:
        """Run steps in a thread until nobody waits any more. What a step raises goes to all who wait."""
        await asyncio.sleep(0)  # calls made together are queued before the first step
        while self._pending:
            step = asyncio.create_task(asyncio.to_thread(self._step))
            await asyncio.wait([step])
            error = step.exception()
            answers = [(row, error) for row in self._pending] if error else step.result()
            for row, answer in answers:
                self._pending.discard(row)
                if row.future.done():  # cancelled
                    continue
                if isinstance(answer, Sample):
                    row.future.set_result(answer)
                else:
                    row.future.set_exception(answer)
            if error or not self._pending:
                self._forget()

    def _forget(self) -> None:
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []  # those that decode, in the order of the cache
        self._cache: RowCache | None = None
        self._answers: list[Answer] = []

    def _step(self) -> list[Answer]:
        """Let waiting rows in, decode one token of every row, and return what ended."""
        self._answers = []
        out_of_memory = False
        try:
            with torch.inference_mode():
                self._keep([place for place, row in enumerate(self._rows) if not row.future.cancelled()])
                self._admit(self._take())
                if self._rows:
                    logits = self._forward([row.ids for row in self._rows], self._cache)
                    self._keep(self._extend(self._rows, logits))
        except RuntimeError as error:
            # The CPU allocator has no error class of its own.
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            out_of_memory = True
        if out_of_memory:  # here nothing holds the failed forward's tensors any more
            self._back_off()
        return self._answers

    def _take(self) -> list[_Row]:
        """Waiting rows for the free places, first come first served; none while only few places are free."""
        taken: list[_Row] = []
        free = self.max_batch - len(self._rows)
        if self._rows and free <= self.max_batch // 8:
            return taken
        longest = max((row.max_length for row in self._rows), default=0)
        while self._waiting and len(taken) < free:
            row = self._waiting[0]
            if not row.future.cancelled():
                longest = max(longest, row.max_length)
                others = len(self._rows) + len(taken)
                if others and (others + 1) * longest > self.token_budget:
                    break
                taken.append(row)
            self._waiting.popleft()
        return taken

    def _admit(self, new: list[_Row]) -> None:
        """Compute new rows, several of similar length at once, and join them to the batch."""
        going = self._rows
        parts: list[tuple[RowCache, slice | list[int]]] = [] if self._cache is None else [(self._cache, slice(None))]
        self._rows = going + new  # all go back to the queue should memory run out
        for rows in _prefills(new):
            place_of: dict[tuple[int, ...], int] = {}
            places = [place_of.setdefault(tuple(row.ids), len(place_of)) for row in rows]
            cache = RowCache()
            kept = self._extend(rows, self._forward(list(place_of), cache)[places])
            going = going + [rows[index] for index in kept]
            parts.append((cache, [places[index] for index in kept]))
        self._rows = going
        if new:
            self._cache = RowCache.joined(parts, _num_cached(going)) if going else None

    def _forward(self, sequences: Sequence[Sequence[int]], cache: RowCache | None) -> Tensor:
        """The logits after each sequence [B, V], in float32. A cache that is not empty holds all but the last id."""
        started = time.perf_counter()
        cached = cache.get_seq_length() if cache is not None else 0
        new = 1 if cached else max(map(len, sequences))
        padding = cached + new - torch.tensor([[len(ids)] for ids in sequences], device=self.device)  # [B, 1]
        columns = torch.arange(cached + new, device=self.device)
        ids = torch.tensor([[0] * (new - len(ids)) + list(ids[-new:]) for ids in sequences], device=self.device)
        output = self.model(
            input_ids=ids,
            attention_mask=(columns >= padding).long(),
            position_ids=(columns[cached:] - padding).clamp(min=0),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.forward_seconds += time.perf_counter() - started
        return logits

    def _extend(self, rows: Sequence[_Row], logits: Tensor) -> list[int]:
        """Append a token to each row by its logits [B, V]; answer the rows that end, return the indices of others."""
        tokens = self._choose(rows, logits)
        logprobs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        going = []
        for index, (row, token, logprob) in enumerate(zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)):
            row.ids.append(token)
            row.logprob += logprob
            answer = self._answer(row)
            if answer is None:
                going.append(index)
            else:
                self._answers.append((row, answer))
        self.tokens_generated += len(rows)
        return going

    def _choose(self, rows: Sequence[_Row], logits: Tensor) -> Tensor:
        """The next token of each row [B]. Where the batch's rounding might decide, a row's own forward does."""
        tokens, in_doubt = self._draw(rows, logits, MARGIN)
        for index in in_doubt.nonzero()[:, 0].tolist():
            logits[index] = self._forward([rows[index].ids], None)[0]
            tokens[index] = self._draw([rows[index]], logits[index : index + 1], 0.0)[0]
            self.tokens_in_doubt += 1
        return tokens

    def _draw(self, rows: Sequence[_Row], logits: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        exponentials = None
        if self.params.temperature:
            # In double precision: of single-precision draws one in 10^7 is zero, and zero wins the race for a token
            # however unlikely. NumPy's generator is also three times as fast as torch's on CPU.
            places = [(row.seed, len(row.ids) - row.num_prompt) for row in rows]
            draws = [np.random.default_rng(place).standard_exponential(logits.shape[1]) for place in places]
            exponentials = torch.from_numpy(np.stack(draws)).to(self.device, torch.float32)
        return choose_tokens(logits, exponentials, self.params.temperature, self.params.top_p, margin)

    def _answer(self, row: _Row) -> Sample | RowError | None:
        """The row's sample if its newest token ends it."""
        if not math.isfinite(row.logprob):
            return RowError("not_finite", "the model's logits are infinite or not a number")
        stops, num_tokens = self.params.stop, len(row.ids) - row.num_prompt
        ended = row.ids[-1] in self._end_ids
        full = len(row.ids) >= row.max_length
        if not ended and not full:
            tail = self._decode(row.ids[max(row.num_prompt, len(row.ids) - self._tail) :]) if stops else ""
            if not any(stop in tail for stop in stops):
                return None
        text = self._decode(row.ids[row.num_prompt : -1 if ended else None])
        cut = min((at for at in map(text.find, stops) if at >= 0), default=None)
        if cut is None and not ended and not full:
            return None
        reason: FinishReason = "length" if cut is None and not ended else "stop"
        return Sample(text[:cut], num_tokens, reason, row.logprob / num_tokens)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _keep(self, places: list[int]) -> None:
        """Go on with these rows only. The last of them move to the places of those that leave; no other is copied."""
        count = len(places)
        if count == len(self._rows):
            return
        holes = [place for place in range(count) if place not in places]
        movers = places[count - len(holes) :]
        for hole, mover in zip(holes, movers, strict=True):
            self._rows[hole] = self._rows[mover]
        self._rows = self._rows[:count]
        if self._cache is not None and self._rows:
            self._cache.keep(holes, movers, count, _num_cached(self._rows))
        else:
            self._cache = None

    def _back_off(self) -> None:
        """After out of memory: all rows go back to the queue, half as many come out; a row alone is at fault."""
        answered = {row for row, _ in self._answers}
        rows = [row for row in self._rows if row not in answered]
        self._rows, self._cache = [], None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(rows) == 1:
            self._answers.append((rows[0], RowError("out_of_memory", f"{len(rows[0].ids)} tokens in one row")))
        else:
            self._waiting.extendleft(reversed(rows))
            self.token_budget = len(rows) * max(row.max_length for row in rows) // 2
            logger.warning("out of memory with %d rows: from now on %d tokens at once", len(rows), self.token_budget)

    def _default_token_budget(self) -> int:
        """As many columns as fit into a third of the memory that is free once the model is loaded."""
        cache = RowCache()
        self._forward([[0]], cache)
        self.forward_seconds = 0.0
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
        else:
            import psutil

            free = psutil.virtual_memory().available // 4  # other actors of the node want some, too
        return int(free / 3 / sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers))


def _num_cached(rows: Sequence[_Row]) -> int:
    """Columns that the longest of the rows fills."""
    return max(len(row.ids) - 1 for row in rows)


def _prefills(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows in groups of similar length, each within PREFILL_TOKENS where it can be."""
    group: list[_Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        length = len(row.ids)
        if group and ((len(group) + 1) * length > PREFILL_TOKENS or length > 2 * len(group[0].ids)):
            yield group
            group = []
        group.append(row)
    if group:
        yield group
