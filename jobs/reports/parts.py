"""Parts that the reports of all verbs share."""

import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.runs.records import RecordStore

NUM_EXAMPLES: Final = 12
BUCKETS_PER_DECADE: Final = 10  # of a histogram over lengths


@dataclass(frozen=True)
class Report:
    """`facts` become report.json. With the plots (SVG by name) and `shown`, the template makes report.html of them."""

    facts: dict[str, Any]
    plots: dict[str, str]
    shown: dict[str, Any] = field(default_factory=dict)


class Reservoir:
    """A uniform sample of a stream of row positions (Vitter's algorithm R), with a fixed seed."""

    def __init__(self, size: int = NUM_EXAMPLES) -> None:
        self.rows: list[int] = []
        self._size = size
        self._num_seen = 0
        self._chance = random.Random(0)

    def offer(self, row: int) -> None:
        """Offer the next row of the stream."""
        self._num_seen += 1
        if len(self.rows) < self._size:
            self.rows.append(row)
        elif (slot := self._chance.randrange(self._num_seen)) < self._size:
            self.rows[slot] = row


def reason_name(reason: str) -> str:
    """The reason in a record, without its detail."""
    return reason.split(":", 1)[0]


def count_reasons(counts: Counter[str], batch: pa.RecordBatch, status: str) -> None:
    """Count the reasons of the records with a status."""
    reasons = batch["reason"].filter(pc.equal(batch["status"], status)).drop_null()
    counts.update(map(reason_name, reasons.to_pylist()))


def count_lengths(counts: Counter[int], lengths: np.ndarray) -> None:
    """Count lengths (positive, in tokens) in logarithmic buckets, BUCKETS_PER_DECADE of them in a decade."""
    counts.update(np.floor(np.log10(lengths) * BUCKETS_PER_DECADE).astype(int).tolist())


def records_at(store: RecordStore, positions: Collection[int]) -> Iterator[dict[str, Any]]:
    """The whole records at some positions of a store, in its order."""
    wanted, number = set(positions), 0
    for batch in store.batches():
        for offset in sorted(place - number for place in wanted if number <= place < number + batch.num_rows):
            yield batch.slice(offset, 1).to_pylist()[0]
        number += batch.num_rows


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
