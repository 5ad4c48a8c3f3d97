"""Exact leave-one-out scoring: a causal language model over prefix forests.

Needs torch and transformers, no Ray. Everything in a request that shares a prefix is computed once. So is everything it
shares with the chain's previous request: keys, values and final hidden states are kept between rounds. A pass holds at
most `token_budget` new tokens of any number of forests. A larger forest is walked depth first in several passes, each
of which sees the keys of its ancestors.

Shape legend: T new tokens of a pass, M hidden size, N nodes of a forest, V vocabulary.
"""

import logging
import time
import weakref
from collections.abc import Callable, Sequence
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
from actors.scoring.attention import PassPart, forest_attention
from actors.scoring.forest_task import ForestTask, KeptState
from actors.scoring.protocol import Scored
from algorithms.perplexity import perplexity, scored_tokens
from algorithms.prefix_forest import IntArray, PrefixForest, build_forest
from algorithms.refinement import ScoreRequest
from algorithms.row_errors import RowError

logger = logging.getLogger(__name__)

ATTENTION: Final = "sluice_forest"
SMALLEST_PASS: Final = 64  # tokens; if memory runs out below this, the row is at fault
LOGIT_BYTES: Final = 1 << 26  # of one chunk of logits
# The start-up check: a wrong mask moves losses by tenths, rounding of bfloat16 by hundredths.
PARITY_TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}


class ForestScorer:
    """A causal language model that answers ScoreRequests exactly.

    `model` is a folder, a hub name or `smollm2`. `dtype` auto is bfloat16 on CUDA, float32 on CPU.
    `token_budget` bounds the new tokens of a pass, `state_tokens` the tokens whose keys and values are kept
    between rounds. Raises UserError for a model that it cannot score exactly.
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
    ) -> None:
        if num_threads:
            torch.set_num_threads(num_threads)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        on_cuda = self.device.type == "cuda"
        dtype_name = {"auto": "bfloat16" if on_cuda else "float32"}.get(dtype, dtype)
        self.dtype: torch.dtype = getattr(torch, dtype_name)
        source = ModelSource.of(model)
        self._tokenizer = source.tokenizer
        check_offsets(self._tokenizer, source.name)
        AttentionInterface.register(ATTENTION, forest_attention)
        self.model: Any = source.load(dtype_name).to(self.device).eval()
        self._head: Callable[[Tensor], Tensor] = self.model.get_output_embeddings()
        config = self.model.config.get_text_config()
        self.window = source.window
        self._rows_per_chunk = max(1, LOGIT_BYTES // (4 * config.vocab_size))
        self.token_budget = token_budget or (16384 if on_cuda else 1024)
        self._state_tokens = state_tokens if state_tokens is not None else self._default_state_tokens(config)
        self._tasks: weakref.WeakSet[ForestTask] = weakref.WeakSet()
        self.forward_seconds = 0.0
        self._check_parity(source.name)

    def prepare(self, request: ScoreRequest, after: ForestTask | None = None) -> ForestTask:
        """Tokenize each variant by itself and fold the sequences into a forest. Raises RowError."""
        texts = list(dict.fromkeys(variant.text for variant in request.variants))
        encoded = self._tokenizer(texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        row_of = {text: row for row, text in enumerate(texts)}
        rows = [row_of[variant.text] for variant in request.variants]
        longest = max(len(ids) for ids in encoded["input_ids"])
        if longest > self.window:
            raise RowError("too_long", f"{longest} tokens, the model's window is {self.window}")
        scored = [
            scored_tokens(encoded["offset_mapping"][row], variant.span)
            for row, variant in zip(rows, request.variants, strict=True)
        ]
        if not scored[0].any():
            raise RowError("nothing_to_score")
        forest = build_forest(encoded["input_ids"])
        # A plain loop would forward each distinct text once: one forward gives any number of spans.
        tokens_naive = sum(map(len, encoded["input_ids"]))
        task = ForestTask(forest, [forest.paths[row] for row in rows], scored, tokens_naive)
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
            costs = [task.num_new_tokens for task in tasks]
            waiting = {index: task for index, task in enumerate(tasks) if task.num_new_tokens}
            while waiting:
                shares = self._fill_pass(waiting)
                try:
                    self._run_pass([(waiting[index], nodes) for index, nodes in shares.items()])
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    self._back_off(shares, waiting, errors)
                waiting = {index: task for index, task in waiting.items() if task.num_new_tokens}
        self.forward_seconds += time.perf_counter() - started
        return [errors.get(index) or self._result(task, costs[index]) for index, task in enumerate(tasks)]

    def num_tokens(self, text: str) -> int:
        """Length of a text in tokens, without special ones."""
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _take_over(self, task: ForestTask) -> None:
        """Use what is kept of the chain's previous request. If memory runs out, compute everything again instead."""
        try:
            task.take_over()
            self._score_known(task)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._state_tokens //= 2
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
        parts: list[PassPart] = []
        for task, nodes in shares:
            parts.append(self._part(task, nodes, start=parts[-1].stop if parts else 0))
        tokens = np.concatenate([part.task.forest.tokens[part.nodes] for part in parts])
        depths = np.concatenate([part.task.forest.depths[part.nodes] for part in parts])
        hidden = self._forward(tokens, depths, parts)
        states = [self._extended(part, hidden[part.start : part.stop]) for part in parts]
        losses = [
            self._losses(part.task.forest, state, part.nodes[part.task.needed[part.nodes]])
            for part, state in zip(parts, states, strict=True)
        ]
        for part, state, (nodes, values) in zip(parts, states, losses, strict=True):
            part.task.losses[nodes] = values
            part.task.todo = part.task.todo[len(part.nodes) :]
            part.task.state = state
            part.task.state = self._kept(part.task)

    def _forward(self, tokens: np.ndarray, depths: np.ndarray, parts: list[PassPart]) -> Tensor:
        """Final hidden states [T, M] of one pass."""
        self.model.set_attn_implementation(ATTENTION)
        output = self.model.base_model(
            input_ids=torch.from_numpy(tokens)[None].to(self.device),
            position_ids=torch.from_numpy(depths)[None].to(self.device),
            use_cache=False,
            forest_parts=parts,
        )
        return output.last_hidden_state[0]

    def _part(self, task: ForestTask, nodes: IntArray, start: int) -> PassPart:
        """A task's share of a pass, with its mask: a query sees a key if `key <= query < subtree_end[key]`."""
        forest, kept = task.forest, task.state.nodes
        # Only kept nodes that are ancestors of new ones matter. `nodes` ascend, so an ancestor shows as a gap between
        # the places of the node and of its subtree's end.
        slots = np.flatnonzero(np.searchsorted(nodes, kept) < np.searchsorted(nodes, forest.subtree_end[kept]))
        keys = np.concatenate([kept[slots], nodes])
        query, key, end, query_depths, key_depths = (
            torch.from_numpy(array).to(self.device)
            for array in (nodes, keys, forest.subtree_end[keys], forest.depths[nodes], forest.depths[keys])
        )
        seen = (key <= query[:, None]) & (query[:, None] < end)
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(~seen, float("-inf"))
        index = torch.from_numpy(slots).to(self.device)
        return PassPart(task, nodes, start, start + len(nodes), index, mask, query_depths, key_depths)

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

    def _score_known(self, task: ForestTask) -> None:
        """Losses of reused nodes that had none: the scope may cover other tokens now."""
        known = task.state.nodes
        missing = known[task.needed[known] & np.isnan(task.losses[known])]
        nodes, values = self._losses(task.forest, task.state, missing)
        task.losses[nodes] = values

    def _losses(self, forest: PrefixForest, state: KeptState, nodes: IntArray) -> tuple[IntArray, np.ndarray]:
        """The loss of each node, from the logits of its parent, a chunk of rows at a time."""
        if len(nodes) == 0 or state.hidden is None:
            return nodes[:0], np.empty(0)
        slot_of = np.full(len(forest), -1)
        slot_of[state.nodes] = np.arange(len(state.nodes))
        parents, row_of = np.unique(forest.parents[nodes], return_inverse=True)
        order = np.argsort(row_of, kind="stable")
        values = np.empty(len(nodes))
        for first in range(0, len(parents), self._rows_per_chunk):
            chunk = parents[first : first + self._rows_per_chunk]
            index = torch.from_numpy(slot_of[chunk]).to(self.device)
            logits = self._head(state.hidden.index_select(0, index)).float()
            children = order[np.searchsorted(row_of[order], first) : np.searchsorted(row_of[order], first + len(chunk))]
            rows = torch.from_numpy(row_of[children] - first).to(self.device)
            tokens = torch.from_numpy(forest.tokens[nodes[children]]).to(self.device)
            loss = torch.logsumexp(logits, dim=-1)[rows] - logits[rows, tokens]
            values[children] = loss.double().cpu().numpy()
        return nodes, values

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
        except (torch.OutOfMemoryError, RuntimeError) as error:  # selecting copies
            if not is_out_of_memory(error):
                raise
            task.start_over()

    def _free_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _result(self, task: ForestTask, cost: int) -> Scored | RowError:
        perplexities = [perplexity(task.losses[path[mask]]) for path, mask in zip(task.paths, task.scored, strict=True)]
        if not np.isfinite(perplexities[0]) or np.isnan(perplexities).any():
            return RowError("not_finite", "the model's loss is infinite or not a number")
        return Scored(perplexities, cost, task.tokens_naive)

    def _default_state_tokens(self, config: Any) -> int:
        """The tokens that fit into a fifth of the memory that is free once the model is loaded."""
        heads = config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        per_token = 2 * config.num_hidden_layers * groups * head_size + config.hidden_size
        return int(free_bytes(self.device) / 5 / (per_token * self.dtype.itemsize))

    def _check_parity(self, name: str) -> None:
        """Score two related texts as a forest, and one by one with the model's own attention.

        This finds models with features that the scorer does not know (attention sinks, capped logits, ALiBi...).
        """
        words = "The sum of 12 and 30 is 42 because 12 + 30 = 42."
        sequences = [self._tokenizer(words + end)["input_ids"] for end in (" So it is even.", " Then we stop.")]
        scored = [np.arange(len(sequence)) > 0 for sequence in sequences]
        forest = build_forest(sequences)
        task = ForestTask(forest, forest.paths, scored, 0)
        [result] = self.score([task])
        self.forward_seconds = 0.0
        if isinstance(result, RowError):
            raise UserError(f"model {name!r} cannot be scored: {result}")
        self.model.set_attn_implementation("sdpa" if self.model._supports_sdpa else "eager")
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
