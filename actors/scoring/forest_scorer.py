"""Exact leave-one-out scoring: a causal language model over prefix forests.

Needs torch and transformers, no Ray. Everything in a request that shares a prefix is computed once. So is everything it
shares with the chain's previous request: keys, values and final hidden states are kept between rounds. A pass holds at
most `token_budget` new tokens of any number of forests. A larger forest is walked depth first in several passes, each
of which sees the keys of its ancestors.

Nothing that the device computes is copied to the host before the end of a pass, and then the losses alone: while the
host waited for a copy in between, it could not give the device more work.

Shape legend: T new tokens of a pass, M hidden size, L losses.
"""

import copy
import itertools
import logging
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from actors.errors import UserError
from actors.models.checks import check_offsets
from actors.models.memory import free_bytes, is_out_of_memory
from actors.models.source import ModelSource
from actors.scoring.attention import PassPart, forest_attention, mask_arrays
from actors.scoring.build import default_token_budget
from actors.scoring.forest_task import ForestTask, KeptState
from actors.scoring.head import LossHead, WantedLosses, join_rows, want_losses
from actors.scoring.preparation import PreparedRequest
from actors.scoring.preparers import Preparer, ProcessPreparer, ThreadPreparer
from actors.scoring.protocol import Scored
from actors.scoring.transfer import to_device
from algorithms.perplexity import perplexity
from algorithms.prefix_forest import IntArray, build_forest
from algorithms.refinement.requests import ScoreRequest
from algorithms.row_errors import RowError

logger = logging.getLogger(__name__)

ATTENTION: Final = "sluice_forest"
SMALLEST_PASS: Final = 64  # tokens; if memory runs out below this, the row is at fault
# The start-up check: a wrong mask moves losses by tenths, rounding of bfloat16 by hundredths.
PARITY_TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}


class ForestScorer:
    """A causal language model that answers ScoreRequests exactly.

    `model` is a folder, a hub name or `smollm2`. `dtype` auto is bfloat16 on CUDA, float32 on CPU.
    `token_budget` bounds the new tokens of a pass, `state_tokens` the tokens whose keys and values are kept
    between rounds. `num_threads` are the CPUs that it may use. `preparing_processes` prepare requests; with 0 it is a
    thread. By default, that is so on the CPU, and on CUDA they are as many as the CPUs, less one for this process.
    Raises UserError for a model that it cannot score exactly.
    """

    def __init__(
        self,
        model: str | ModelSource,
        *,
        device: str | None = None,
        dtype: str = "auto",
        token_budget: int | None = None,
        state_tokens: int | None = None,
        num_threads: int | None = None,
        preparing_processes: int | None = None,
    ) -> None:
        if num_threads:
            torch.set_num_threads(num_threads)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        on_cuda = self.device.type == "cuda"
        dtype_name = {"auto": "bfloat16" if on_cuda else "float32"}.get(dtype, dtype)
        self.dtype: torch.dtype = getattr(torch, dtype_name)
        source = ModelSource.of(model)
        check_offsets(source.tokenizer, source.name)
        AttentionInterface.register(ATTENTION, forest_attention)
        self.model: Any = source.load(dtype_name, device=str(self.device)).eval()
        self._own_attention = "sdpa" if self.model._supports_sdpa else "eager"
        config = self.model.config.get_text_config()
        self._head = LossHead(self.model.get_output_embeddings(), config.vocab_size)
        self.token_budget = token_budget or default_token_budget(self.device.type)
        self._state_tokens = state_tokens if state_tokens is not None else self._default_state_tokens(config)
        self._tasks: weakref.WeakSet[ForestTask] = weakref.WeakSet()
        self.forward_seconds = 0.0
        self._check_parity(source.name, source.tokenizer)
        self.model.set_attn_implementation(ATTENTION)
        if preparing_processes is None:
            preparing_processes = max(1, torch.get_num_threads() - 1) if on_cuda else 0
        self._preparer: Preparer = (
            ProcessPreparer(source.tokenizer.backend_tokenizer, source.window, preparing_processes)
            if preparing_processes
            else ThreadPreparer(source.tokenizer.backend_tokenizer, source.window)
        )
        self.num_preparing = self._preparer.num_at_once

    async def prepare(self, request: ScoreRequest, after: ForestTask | None = None) -> ForestTask:
        """Tokenize each variant by itself and fold the sequences into a forest. Raises RowError."""
        task = ForestTask(await self._preparer.prepare(request))
        if after is not None:
            task.reuse(after)
        return task

    def score(self, tasks: Sequence[ForestTask]) -> list[Scored | RowError]:
        """Score several tasks in as few passes as the token budget allows.

        A task that does not fit into memory even alone gets a RowError.
        """
        started = time.perf_counter()
        errors: dict[int, RowError] = {}
        with torch.inference_mode():
            self._tasks.update(tasks)
            for task in tasks:
                self._take_over(task)
            self._score_known(tasks)
            costs = [task.num_new_tokens for task in tasks]
            waiting = {index: task for index, task in enumerate(tasks) if task.num_new_tokens}
            while waiting:
                shares = self._fill_pass(waiting)
                try:
                    self._run_pass([(waiting[index], nodes) for index, nodes in shares.items()])
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    self._back_off(shares, waiting, errors)
                waiting = {index: task for index, task in waiting.items() if task.num_new_tokens}
        self.forward_seconds += time.perf_counter() - started
        return [errors.get(index) or self._result(task, costs[index]) for index, task in enumerate(tasks)]

    def shared_model(self) -> Any:
        """A model for another use that holds the same weights. Its attention is the model's own."""
        tensors = itertools.chain(self.model.parameters(), self.model.buffers())
        shared = copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})
        shared.set_attn_implementation(self._own_attention)
        return shared

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in tokens, without special ones."""
        return await self._preparer.count_tokens(texts)

    def _take_over(self, task: ForestTask) -> None:
        """Use what is kept of the chain's previous request. If memory runs out, compute everything again instead."""
        try:
            task.take_over()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._recompute([task])

    def _score_known(self, tasks: Sequence[ForestTask]) -> None:
        """Losses of reused nodes that had none: the scope may cover other tokens now."""
        missing = [(task, task.needed[task.state.nodes] & np.isnan(task.losses[task.state.nodes])) for task in tasks]
        known = [(task, task.state.nodes[mask]) for task, mask in missing if mask.any()]
        if not known:
            return
        wanted = [want_losses(task.forest, task.state.nodes, nodes) for task, nodes in known]
        try:
            tensors = to_device(_head_arrays(wanted), self.device)
            losses = self._losses(wanted, [task.state for task, _ in known], tensors)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._recompute([task for task, _ in known])
            return
        for (task, _), each, values in zip(known, wanted, losses, strict=True):
            task.losses[each.nodes] = values

    def _recompute(self, tasks: Iterable[ForestTask]) -> None:
        """After out of memory in what is kept: keep less, and compute these tasks from the start."""
        self._state_tokens //= 2
        for task in tasks:
            task.start_over()
        self._free_cache()

    def _fill_pass(self, waiting: dict[int, ForestTask]) -> dict[int, IntArray]:
        """New nodes for one pass, in the order of the tasks, up to the token budget."""
        left = self.token_budget
        shares: dict[int, IntArray] = {}
        for index, task in waiting.items():
            if left <= 0:
                break
            if task.num_new_tokens == 0:
                continue
            shares[index] = task.todo[:left]
            left -= len(shares[index])
        return shares

    def _run_pass(self, shares: list[tuple[ForestTask, IntArray]]) -> None:
        """Compute some nodes of some tasks. Tasks change only if the whole pass succeeds."""
        tokens = np.concatenate([task.forest.tokens[nodes] for task, nodes in shares])
        depths = np.concatenate([task.forest.depths[nodes] for task, nodes in shares])
        masks = [mask_arrays(task, nodes) for task, nodes in shares]
        wanted = [
            want_losses(task.forest, np.concatenate([task.state.nodes, nodes]), nodes[task.needed[nodes]])
            for task, nodes in shares
        ]
        arrays = [tokens, depths, *itertools.chain.from_iterable(masks), *_head_arrays(wanted)]
        tensors = iter(to_device(arrays, self.device))
        token_ids, positions = next(tensors), next(tensors)
        parts: list[PassPart] = []
        for task, nodes in shares:
            own = itertools.islice(tensors, len(masks[0]))
            parts.append(self._part(task, nodes, parts[-1].stop if parts else 0, *own))
        output = self.model.base_model(
            input_ids=token_ids[None], position_ids=positions[None], use_cache=False, forest_parts=parts
        )
        hidden = output.last_hidden_state[0]
        states = [self._extended(part, hidden[part.start : part.stop]) for part in parts]
        losses = self._losses(wanted, states, list(tensors))
        for part, state, each, values in zip(parts, states, wanted, losses, strict=True):
            part.task.losses[each.nodes] = values
            part.task.todo = part.task.todo[len(part.nodes) :]
            part.task.state = state
            part.task.state = self._kept(part.task)

    def _part(
        self,
        task: ForestTask,
        nodes: IntArray,
        start: int,
        slots: Tensor,
        query: Tensor,
        key: Tensor,
        end: Tensor,
        query_depths: Tensor,
        key_depths: Tensor,
    ) -> PassPart:
        """A task's share of a pass, with its mask: a query sees a key if `key <= query < subtree_end[key]`."""
        seen = (key <= query[:, None]) & (query[:, None] < end)
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(~seen, float("-inf"))
        return PassPart(task, nodes, start, start + len(nodes), slots, mask, query_depths, key_depths)

    def _losses(
        self, wanted: Sequence[WantedLosses], states: Sequence[KeptState], tensors: Sequence[Tensor]
    ) -> list[np.ndarray]:
        """The wanted losses of each task. `tensors` are `_head_arrays(wanted)` on the device."""
        rows, tokens, *slots = tensors
        if len(rows) == 0:
            return [np.empty(0)] * len(wanted)
        hidden = torch.cat(
            [
                state.hidden.index_select(0, own)
                for state, own in zip(states, slots, strict=True)
                if state.hidden is not None
            ]
        )
        losses = self._head.losses(hidden, join_rows(wanted), rows, tokens).cpu().double().numpy()
        return np.split(losses, np.cumsum([len(each.nodes) for each in wanted])[:-1])

    def _extended(self, part: PassPart, hidden: Tensor) -> KeptState:
        """The task's state with the new nodes after the kept ones."""
        room = part.task.num_new_tokens - len(part.nodes) if self._has_room(part.task) else 0
        return part.task.state.append(KeptState(part.nodes, part.keys, part.values, hidden), room)

    def _has_room(self, task: ForestTask) -> bool:
        """Whether the states of all forests, with all of this one, stay within `state_tokens`."""
        others = sum(len(other.state.nodes) for other in self._tasks if other is not task)
        return others + len(task.state.nodes) + task.num_new_tokens <= self._state_tokens

    def _kept(self, task: ForestTask) -> KeptState:
        """What to keep of a task's state: all of it if there is room, otherwise the ancestors of nodes to come."""
        state = task.state
        if self._has_room(task):
            return state
        if task.num_new_tokens == 0:
            return KeptState.empty()
        slots = np.flatnonzero(task.forest.subtree_end[state.nodes] > task.todo[0])
        return state.select(slots, state.nodes[slots])

    def _back_off(
        self, shares: dict[int, IntArray], waiting: dict[int, ForestTask], errors: dict[int, RowError]
    ) -> None:
        """After out of memory: keep less and compute less at once. At the smallest pass, a row is at fault."""
        size = sum(map(len, shares.values()))
        if self._state_tokens or size > SMALLEST_PASS:
            self._state_tokens //= 2
            self.token_budget = max(SMALLEST_PASS, min(size, self.token_budget) // 2)
            if self._state_tokens <= self.token_budget:
                self._state_tokens = 0
            for task in list(self._tasks):
                self._shrink(task)
            logger.warning("out of memory: now %d tokens a pass, %d kept", self.token_budget, self._state_tokens)
        else:
            index = next(iter(shares))
            task = waiting.pop(index)
            errors[index] = RowError("out_of_memory", f"{len(task.forest)} tokens in one forest")
            task.todo = task.todo[:0]
            task.state = KeptState.empty()
        self._free_cache()

    def _shrink(self, task: ForestTask) -> None:
        try:
            task.state = self._kept(task)
        except (RuntimeError, MemoryError) as error:  # selecting copies
            if not is_out_of_memory(error):
                raise
            task.start_over()

    def _free_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _result(self, task: ForestTask, cost: int) -> Scored | RowError:
        perplexities = [perplexity(task.losses[nodes]) for nodes in task.scored]
        if not np.isfinite(perplexities[0]) or np.isnan(perplexities).any():
            return RowError("not_finite", "the model's loss is infinite or not a number")
        return Scored(perplexities, cost, task.tokens_naive, [len(nodes) for nodes in task.scored])

    def _default_state_tokens(self, config: Any) -> int:
        """The tokens that fit into a fifth of the memory that is free once the model is loaded."""
        heads = config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        per_token = 2 * config.num_hidden_layers * groups * head_size + config.hidden_size
        return int(free_bytes(self.device) / 5 / (per_token * self.dtype.itemsize))

    def _check_parity(self, name: str, tokenizer: Any) -> None:
        """Score two related texts as a forest, and one by one with the model's own attention.

        This finds models with features that the scorer does not know (attention sinks, capped logits, ALiBi...).
        """
        words = "The sum of 12 and 30 is 42 because 12 + 30 = 42."
        sequences = [tokenizer(words + end)["input_ids"] for end in (" So it is even.", " Then we stop.")]
        scored = tuple(np.arange(len(sequence)) > 0 for sequence in sequences)
        forest = build_forest(sequences)
        task = ForestTask(PreparedRequest(forest, (0, 1), scored, tokens_naive=0))
        self.model.set_attn_implementation(ATTENTION)
        [result] = self.score([task])
        self.forward_seconds = 0.0
        if isinstance(result, RowError):
            raise UserError(f"model {name!r} cannot be scored: {result}")
        self.model.set_attn_implementation(self._own_attention)
        for sequence, path in zip(sequences, forest.paths, strict=True):
            ids = torch.tensor([sequence], device=self.device)
            with torch.inference_mode():
                logits = self.model(input_ids=ids, use_cache=False).logits[0].float()
            own = functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none").cpu().numpy()
            difference = float(np.abs(own - task.losses[path[1:]]).max())
            if not difference <= PARITY_TOLERANCE.get(self.dtype, 0.15):
                raise UserError(
                    f"model {name!r} cannot be scored exactly: its own attention gives token losses that differ "
                    f"by {difference:.3g} from the prefix forest's. Use a model with plain softmax attention"
                )


def _head_arrays(wanted: Sequence[WantedLosses]) -> list[IntArray]:
    """What the head needs on the device: rows and tokens of all losses, then the slots of each task."""
    return [join_rows(wanted), np.concatenate([each.tokens for each in wanted]), *(each.slots for each in wanted)]
