"""One scoring request as a prefix forest, and what is kept of its nodes between rounds.

Shape legend: C slots, G key/value heads, D head size, M hidden size.
"""

import numpy as np
from torch import Tensor

from actors.scoring.preparation import PreparedRequest
from actors.scoring.transfer import to_device
from algorithms.prefix_forest import IntArray, match_nodes


class ForestTask:
    """One request as a forest: the losses of its nodes, and the state of the nodes that are kept."""

    def __init__(self, prepared: PreparedRequest) -> None:
        self.forest = prepared.forest
        self.tokens_naive = prepared.tokens_naive
        # For each variant, the nodes of the tokens that count. Variants with one text share a path.
        self.scored: list[IntArray] = [
            self.forest.paths[text][mask] for text, mask in zip(prepared.text_of, prepared.scored, strict=True)
        ]
        self.needed = np.zeros(len(self.forest), dtype=np.bool_)
        for nodes in self.scored:
            self.needed[nodes] = True
        self.losses = np.full(len(self.forest), np.nan)
        self.todo: IntArray = np.arange(len(self.forest))
        self.state = KeptState.empty()
        self._previous: tuple[ForestTask, KeptState, IntArray, IntArray] | None = None

    def reuse(self, before: "ForestTask") -> None:
        """Leave out the nodes whose state an earlier task of the same chain still holds."""
        state = before.state  # another thread may free it meanwhile
        slots = np.full(len(before.forest) + 1, -1)  # the last entry stands for "no node"
        slots[state.nodes] = np.arange(len(state.nodes))
        matched = match_nodes(self.forest, before.forest)
        kept = np.flatnonzero(slots[matched] >= 0)
        self.losses[kept] = before.losses[matched[kept]]
        self.todo = np.flatnonzero(slots[matched] < 0)
        self._previous = (before, state, kept, slots[matched[kept]])

    def take_over(self) -> None:
        """Move the reused state here. If it has been freed, every node has to be computed."""
        if self._previous is None:
            return
        before, state, kept, slots = self._previous
        if before.state is state:
            self.state = state.select(slots, kept)
            before.state = KeptState.empty()
        else:
            self.start_over()
        self._previous = None

    def start_over(self) -> None:
        """Forget everything computed and reused."""
        self.todo = np.arange(len(self.forest))
        self.losses[:] = np.nan
        self.state = KeptState.empty()
        self._previous = None

    @property
    def num_new_tokens(self) -> int:
        """Tokens that the model still has to compute."""
        return len(self.todo)


class KeptState:
    """What is kept of computed nodes: keys and values for each layer [1, G, C, D], final hidden states [C, M].

    Slot i of C holds `nodes[i]`. Slots after the last node are room to grow.
    """

    def __init__(self, nodes: IntArray, keys: list[Tensor], values: list[Tensor], hidden: Tensor | None) -> None:
        self.nodes = nodes
        self.keys = keys
        self.values = values
        self.hidden = hidden

    @classmethod
    def empty(cls) -> "KeptState":
        """The state of no node."""
        return cls(np.empty(0, dtype=np.int64), [], [], None)

    def select(self, slots: np.ndarray, nodes: IntArray) -> "KeptState":
        """Some slots, with the numbers that their nodes have in another forest."""
        if self.hidden is None or len(slots) == 0:
            return KeptState.empty()
        [index] = to_device([slots], self.hidden.device)
        keys, values = ([tensor.index_select(2, index) for tensor in each] for each in (self.keys, self.values))
        return KeptState(nodes, keys, values, self.hidden.index_select(0, index))

    def append(self, other: "KeptState", room: int) -> "KeptState":
        """This state with the slots of `other` after its own. If it must grow, it gets `room` for more."""
        assert other.hidden is not None, "nothing to append"
        size, more = len(self.nodes), len(other.nodes)
        keys, values, hidden = self.keys, self.values, self.hidden
        if hidden is None:
            keys, values = ([tensor[:, :, :0] for tensor in each] for each in (other.keys, other.values))
            hidden = other.hidden[:0]
        if len(hidden) < size + more:
            capacity = size + more + room
            keys, values = ([_grown(tensor, 2, size, capacity) for tensor in each] for each in (keys, values))
            hidden = _grown(hidden, 0, size, capacity)
        for mine, new in zip([*keys, *values], [*other.keys, *other.values], strict=True):
            mine[:, :, size : size + more] = new
        hidden[size : size + more] = other.hidden
        return KeptState(np.concatenate([self.nodes, other.nodes]), keys, values, hidden)


def _grown(tensor: Tensor, axis: int, size: int, capacity: int) -> Tensor:
    shape = list(tensor.shape)
    shape[axis] = capacity
    grown = tensor.new_empty(shape)
    grown.narrow(axis, 0, size).copy_(tensor.narrow(axis, 0, size))
    return grown
