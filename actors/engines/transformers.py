"""Samples from a causal language model with transformers: continuous batching, the same sample in any batch.

Needs torch and transformers, no Ray. Rows of different lengths decode together, aligned at the right. A row that ends
leaves at once, and waiting rows take the free places. A prompt that several new rows share is computed once. Every row
has its own sampling parameters.

The same prompt and seed give the same sample. The randomness of a token depends only on the seed and on the token's
place in the sample. The logits do depend on the batch, in their last bits: matrices of other shapes are summed in
another order (differences of 4e-5 in float32 where logits are about 20). A choice that a change of MARGIN / 2 in the
logits could turn is in doubt (`algorithms.sampling.choose_tokens`), and is made again from a forward pass of that row
alone, without a cache, which no batch can influence. This holds for float32. In half precision logits move by
hundredths: samples still follow the model, but repeat only if they are batched the same way. `mean_logprob` comes from
the batch and is equal up to rounding.

Shape legend: B batch, L columns in the cache, T new ones, H query heads, G key/value heads, D head size, V vocabulary.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from actors.engines.protocol import Piece, SampleRequest
from actors.engines.row_cache import RowCache, grouped_attention
from actors.engines.text_stream import TextStream
from actors.errors import UserError
from actors.models.adapters import load_adapter
from actors.models.memory import free_bytes, is_out_of_memory
from actors.models.source import ModelSource, encode_prompt, split_stops
from algorithms.row_errors import RowError
from algorithms.sampling import FinishReason, Sample, SamplingParams, choose_tokens

logger = logging.getLogger(__name__)

MARGIN: Final = 5e-4  # in logits
PREFILL_TOKENS: Final = 8192  # of one forward of new rows, padding counted
ATTENTION: Final = "sluice_grouped"
LAYERS: Final = {"full_attention", "sliding_attention"}  # they keep nothing but keys and values


@dataclass(eq=False, slots=True)
class _Row:
    """A sample on its way. `ids` are the prompt's, then its own. The cache holds all but the newest."""

    future: asyncio.Future[Sample]
    params: SamplingParams
    ids: list[int]
    num_prompt: int
    max_length: int  # of `ids`
    end_ids: frozenset[int]
    stops: tuple[str, ...]
    text: TextStream | None = None  # of a stream
    pieces: asyncio.Queue[Piece | BaseException] | None = None
    logprob: float = 0.0
    logprobs: list[float] | None = None  # of each token, if they were asked for

    @property
    def new_ids(self) -> list[int]:
        """The tokens of the sample so far, without the one that ended it."""
        return self.ids[self.num_prompt : -1 if self.ids[-1] in self.end_ids else None]

    def answer(self, answer: Sample | BaseException) -> None:
        """Hand the sample, or the reason why there is none, to the waiting call."""
        if self.future.done():  # cancelled
            return
        if self.pieces is not None and self.text is not None:
            self.pieces.put_nowait(
                Piece(self.text.finish(answer.text), answer.num_tokens, answer)
                if isinstance(answer, Sample)
                else answer
            )
        elif isinstance(answer, Sample):
            self.future.set_result(answer)
        else:
            self.future.set_exception(answer)


Answer: TypeAlias = tuple[_Row, Sample | BaseException]


class TransformersEngine:
    """Draws samples from a model, with the PEFT adapter of a folder on it if given.

    `loaded` is the model itself, if it is there already.

    At most `max_batch` rows decode together, and no more than fit `token_budget` columns of keys and values at their
    full length (default: a third of the free memory). Raises UserError for a model or an adapter it cannot sample from.
    """

    def __init__(
        self,
        model: str | ModelSource,
        *,
        loaded: Any = None,
        adapter: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        max_batch: int = 32,
        token_budget: int | None = None,
        num_threads: int | None = None,
    ) -> None:
        if num_threads:
            torch.set_num_threads(num_threads)
        self.device = torch.device(device)
        self.max_batch = max_batch
        self.concurrency = 2 * max_batch
        source = ModelSource.of(model)
        self._tokenizer: Any = source.tokenizer
        loaded = loaded or source.load(dtype)
        config = loaded.config.get_text_config()
        if not set(getattr(config, "layer_types", None) or ()) <= LAYERS:
            raise UserError(f"model {source.name!r} keeps more than keys and values, which this engine cannot batch")
        adapted = load_adapter(loaded, source.name, adapter) if adapter else loaded
        self.model = adapted.to(self.device).eval()
        if self.device.type == "cpu" and self.model.config._attn_implementation == "sdpa":
            AttentionInterface.register(ATTENTION, grouped_attention)
            AttentionMaskInterface.register(ATTENTION, sdpa_mask)
            self.model.set_attn_implementation(ATTENTION)
        self._end_ids = source.end_ids
        self.window = source.window
        self.forward_seconds = 0.0
        self.tokens_generated = 0
        self.tokens_in_doubt = 0
        self.token_budget = token_budget or self._default_token_budget()
        self._pending: set[_Row] = set()
        self._driver: asyncio.Task[None] | None = None
        self._forget()

    @property
    def num_unfinished(self) -> int:
        """Rows that decode or wait."""
        return len(self._pending)

    async def sample(self, request: SampleRequest) -> Sample:
        """Draw one sample. Raises RowError if the prompt leaves the sample no room."""
        row = self._enqueue(request)
        try:
            return await row.future
        finally:
            self._pending.discard(row)

    async def stream(self, request: SampleRequest) -> AsyncGenerator[Piece]:
        """Draw one sample, piece by piece. Raises RowError if the prompt leaves the sample no room."""
        row = self._enqueue(request, streams=True)
        assert row.pieces is not None
        try:
            while True:
                piece = await row.pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if piece.sample is not None:
                    return
        finally:
            row.future.cancel()  # the next step drops the row
            self._pending.discard(row)

    def close(self) -> None:
        """Free the model and the cache."""
        self._forget()
        del self.model

    def _enqueue(self, request: SampleRequest, *, streams: bool = False) -> _Row:
        params = request.params
        ids = encode_prompt(self._tokenizer, request.prompt)
        max_length = min(len(ids) + params.max_tokens, self.window)
        if not ids:
            raise RowError("empty_field", "the prompt has no tokens")
        if max_length <= len(ids):
            raise RowError("too_long", f"a prompt of {len(ids)} tokens, the model's window is {self.window}")
        stop_ids, stops = split_stops(self._tokenizer, params.stop)
        future = asyncio.get_running_loop().create_future()
        row = _Row(future, params, ids, len(ids), max_length, self._end_ids | stop_ids, stops)
        if request.token_logprobs:
            row.logprobs = []
        if streams:
            row.text, row.pieces = TextStream(self._decode, stops), asyncio.Queue()
        self._pending.add(row)
        self._waiting.append(row)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        return row

    async def _drive(self) -> None:
        """Run steps in a thread until no call waits any more. All waiting calls get the exception of a step."""
        await asyncio.sleep(0)  # calls made together are queued before the first step
        while self._pending:
            step = asyncio.create_task(asyncio.to_thread(self._step))
            await asyncio.wait([step])
            error = step.exception()
            answers = [(row, error) for row in self._pending] if error else step.result()
            for row, text in self._texts:
                if row.pieces is not None:
                    row.pieces.put_nowait(Piece(text, len(row.ids) - row.num_prompt))
            for row, answer in answers:
                self._pending.discard(row)
                row.answer(answer)
            if error or not self._pending:
                self._forget()

    def _forget(self) -> None:
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []  # those that decode, in the order of the cache
        self._cache: RowCache | None = None
        self._answers: list[Answer] = []
        self._texts: list[tuple[_Row, str]] = []  # new pieces of streams

    def _step(self) -> list[Answer]:
        """Admit waiting rows, decode one token of every row, and return the rows that ended."""
        self._answers, self._texts = [], []
        out_of_memory = False
        try:
            with torch.inference_mode():
                self._keep([place for place, row in enumerate(self._rows) if not row.future.cancelled()])
                self._admit(self._next_rows())
                if self._rows:
                    logits = self._forward([row.ids for row in self._rows], self._cache)
                    self._keep(self._extend(self._rows, logits))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = True
        if out_of_memory:  # here nothing holds the failed forward's tensors any more
            self._back_off()
        return self._answers

    def _next_rows(self) -> list[_Row]:
        """Waiting rows for the free places, in their order. None while only a few places are free."""
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
        """Compute new rows, those of similar length together, and join them to the batch."""
        going = self._rows
        parts: list[tuple[RowCache, slice | list[int]]] = [] if self._cache is None else [(self._cache, slice(None))]
        self._rows = going + new  # all return to the queue if memory runs out
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
        """The logits after each sequence [B, V], in float32. A cache that is not empty holds all ids but the last."""
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
        """Append a token to each row by its logits [B, V]. Returns the indices of the unfinished rows."""
        tokens = self._choose(rows, logits)
        logprobs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        going = []
        for index, (row, token, logprob) in enumerate(zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)):
            row.ids.append(token)
            row.logprob += logprob
            if row.logprobs is not None:
                row.logprobs.append(logprob)
            answer = self._answer(row)
            if answer is not None:
                self._answers.append((row, answer))
                continue
            going.append(index)
            if row.text is not None and (text := row.text.push(row.new_ids)):
                self._texts.append((row, text))
        self.tokens_generated += len(rows)
        return going

    def _choose(self, rows: Sequence[_Row], logits: Tensor) -> Tensor:
        """The next token of each row [B]. If the batch's rounding could decide, the row's own forward pass does."""
        tokens, in_doubt = self._draw(rows, logits, MARGIN)
        for index in in_doubt.nonzero()[:, 0].tolist():
            logits[index] = self._forward([rows[index].ids], None)[0]
            tokens[index] = self._draw([rows[index]], logits[index : index + 1], 0.0)[0]
            self.tokens_in_doubt += 1
        return tokens

    def _draw(self, rows: Sequence[_Row], logits: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        temperatures, top_ps = (
            torch.tensor([getattr(row.params, name) for row in rows], dtype=torch.float64, device=self.device)
            for name in ("temperature", "top_p")
        )
        # In double precision: of single-precision draws one in 10^7 is zero, and zero wins the race for a token
        # however unlikely. NumPy's generator is also three times as fast as torch's on CPU.
        exponentials = np.ones((len(rows), logits.shape[1]))
        for index, row in enumerate(rows):
            if row.params.temperature:
                place = (row.params.seed, len(row.ids) - row.num_prompt)
                np.random.default_rng(place).standard_exponential(out=exponentials[index])
        draws = torch.from_numpy(exponentials).to(self.device, torch.float32)
        return choose_tokens(logits, draws, temperatures, top_ps, margin)

    def _answer(self, row: _Row) -> Sample | RowError | None:
        """The row's sample if its newest token ends it."""
        if not math.isfinite(row.logprob):
            return RowError("not_finite", "the model's logits are infinite or not a number")
        num_tokens = len(row.ids) - row.num_prompt
        ended = row.ids[-1] in row.end_ids
        full = len(row.ids) >= row.max_length
        if not ended and not full:
            if not row.stops:
                return None
            # A stop text of n bytes lies in the last n tokens. A few more: the first may decode to half a character.
            tail = self._decode(row.new_ids[-max(len(stop.encode()) for stop in row.stops) - 4 :])
            if not any(stop in tail for stop in row.stops):
                return None
        text = self._decode(row.new_ids)
        cut = min((at for at in map(text.find, row.stops) if at >= 0), default=None)
        if cut is None and not ended and not full:
            return None
        reason: FinishReason = "length" if cut is None and not ended else "stop"
        return Sample(text[:cut], num_tokens, reason, row.logprob / num_tokens, self._tokens(row), row.num_prompt)

    def _tokens(self, row: _Row) -> tuple[tuple[str, float], ...] | None:
        """The text and log-probability of each token of a row that was asked for them."""
        if row.logprobs is None:
            return None
        texts = [self._tokenizer.decode([each]) for each in row.ids[row.num_prompt :]]
        return tuple(zip(texts, row.logprobs, strict=True))

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _keep(self, places: list[int]) -> None:
        """Keep only these rows. The last of them move into the places of those that leave; no other is copied."""
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
        """After out of memory: return all rows to the queue and halve the budget. A row that was alone is at fault."""
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
            logger.warning("out of memory with %d rows: the budget is now %d tokens", len(rows), self.token_budget)

    def _default_token_budget(self) -> int:
        """The columns that fit into a third of the memory that is free once the model is loaded."""
        cache = RowCache()
        self._forward([[0]], cache)
        self.forward_seconds = 0.0
        free = free_bytes(self.device)
        return int(free / 3 / sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers))


def _num_cached(rows: Sequence[_Row]) -> int:
    """Columns that the longest row fills."""
    return max(len(row.ids) - 1 for row in rows)


def _prefills(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows in groups of similar length, each group within PREFILL_TOKENS if it can be."""
    group: list[_Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        length = len(row.ids)
        if group and ((len(group) + 1) * length > PREFILL_TOKENS or length > 2 * len(group[0].ids)):
            yield group
            group = []
        group.append(row)
    if group:
        yield group
