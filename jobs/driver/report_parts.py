"""What the reports of all jobs are made of."""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from actors.records import RecordStore

NUM_EXAMPLES: Final = 12


@dataclass(frozen=True)
class Report:
    """`facts` become report.json; with the plots (SVG by name) and `shown` the template becomes report.html."""

    template: str
    facts: dict[str, Any]
    plots: dict[str, str]
    shown: dict[str, Any] = field(default_factory=dict)


def reservoir(rows: list[int], row: int, seen: int, chooser: random.Random, size: int = NUM_EXAMPLES) -> None:
    """Keep a uniform sample of a stream (Vitter's algorithm R)."""
    if len(rows) < size:
        rows.append(row)
    elif (slot := chooser.randrange(seen)) < size:
        rows[slot] = row


def records_at(store: RecordStore, positions: Collection[int]) -> Iterator[dict[str, Any]]:
    """The whole records at some positions of a store, in its order."""
    wanted, number = set(positions), 0
    for batch in store.batches():
        for offset in sorted(place - number for place in wanted if number <= place < number + batch.num_rows):
            yield batch.slice(offset, 1).to_pylist()[0]
        number += batch.num_rows
