"""A worker's tokenised samples in memory: flat arrays, not Python lists, and padded batches of them.

A worker has all samples of each of its problems. The problems of a split are dealt out like cards, in the order of
their hashes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from actors.ranking.tokens import TOKEN_SCHEMA, Tokens
from actors.runs.retries import retried
from actors.runs.storage import Storage
from algorithms.ranking.encoder_head import TokenBatch
from algorithms.ranking.metrics import Bools, Ints

PADDING: Final = 0  # masked, so any token that exists will do


@dataclass(frozen=True)
class TokenStore:
    """N samples as tokens, end to end. Sample n has those from starts[n] up to starts[n + 1].

    Its solution begins at `firsts[n]` and ends before `ends[n]`, counted from the sample's first token.
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]  # [N + 1]
    firsts: NDArray[np.int32]
    ends: NDArray[np.int32]

    @classmethod
    def of(cls, samples: Sequence[Tokens]) -> "TokenStore":
        """The store of some samples."""
        lengths = [len(each.tokens) for each in samples]
        return cls(
            np.fromiter((token for each in samples for token in each.tokens), np.int32, sum(lengths)),
            np.cumsum([0, *lengths]),
            np.array([each.first for each in samples], np.int32),
            np.array([each.end for each in samples], np.int32),
        )

    def __len__(self) -> int:
        return len(self.firsts)

    @cached_property
    def lengths(self) -> Ints:
        """Tokens of each sample."""
        return np.diff(self.starts)

    def batch(self, indices: Sequence[int] | Ints) -> TokenBatch:
        """Some samples, padded on the right to the longest of them."""
        lengths_B1 = torch.from_numpy(self.lengths[indices])[:, None]
        places_T = torch.arange(int(lengths_B1.max()))
        attention_BT = places_T < lengths_B1
        tokens_BT = torch.full(attention_BT.shape, PADDING)
        spans = [self.tokens[self.starts[each] : self.starts[each + 1]] for each in indices]
        tokens_BT[attention_BT] = torch.from_numpy(np.concatenate(spans)).long()
        firsts_B1, ends_B1 = (torch.from_numpy(each[indices])[:, None] for each in (self.firsts, self.ends))
        return TokenBatch(tokens_BT, attention_BT.long(), (places_T >= firsts_B1) & (places_T < ends_B1))


@dataclass(frozen=True)
class GradedTokens:
    """Samples of a split with their grades, in the order of the input."""

    store: TokenStore
    right: Bools
    problems: Ints


def read_split(
    examples: Storage, split: str, rank: int = 0, world_size: int = 1, only_pairs: bool = False
) -> GradedTokens:
    """A worker's samples of a split, from the files of TOKEN_SCHEMA in a folder.

    `only_pairs` leaves out the problems whose samples are all right or all wrong.
    """
    files = [examples / info.base_name for info in examples.files() if info.path.endswith(".parquet")]
    grades = pa.concat_tables([_grades(file, split) for file in files]).group_by("problem").aggregate(
        [("right", "min"), ("right", "max")]
    )  # fmt: skip
    if only_pairs:
        grades = grades.filter(pc.not_equal(grades["right_min"], grades["right_max"]))
    mine = grades["problem"].combine_chunks().sort()[rank::world_size]
    table = pa.concat_tables([TOKEN_SCHEMA.empty_table(), *(_rows(file, split, mine) for file in files)])
    table = table.sort_by("place")
    tokens = table["tokens"].combine_chunks()
    lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False)
    store = TokenStore(
        tokens.flatten().to_numpy(),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        table["first"].to_numpy(),
        table["end"].to_numpy(),
    )
    return GradedTokens(store, table["right"].to_numpy().astype(bool), table["problem"].to_numpy())


@retried
def _grades(file: Storage, split: str) -> pa.Table:
    """The problem and the grade of each row of a split."""
    columns = pq.read_table(file.path, filesystem=file.filesystem, columns=["split", "problem", "right"])
    return columns.filter(pc.equal(columns["split"], split)).drop(["split"])


@retried
def _rows(file: Storage, split: str, problems: pa.Array) -> pa.Table:
    """The rows of some problems, one row group in memory at a time."""
    kept = [TOKEN_SCHEMA.empty_table()]
    with pq.ParquetFile(file.path, filesystem=file.filesystem) as parquet:
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, TOKEN_SCHEMA.names).cast(TOKEN_SCHEMA)
            wanted = pc.and_(pc.equal(rows["split"], split), pc.is_in(rows["problem"], value_set=problems))
            kept.append(rows.filter(wanted))
    return pa.concat_tables(kept)
