"""From --demos and --calibration to chains that can be shortened and scored.

The demonstrations are the user's choice, so each must be usable. Of the calibration rows, the first that can be used
are taken, and the others are counted by reason.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from actors.errors import UserError
from actors.runs.corpus import Corpus, Part
from algorithms.chains import Chain
from algorithms.row_errors import RowError

ROWS_PER_READ: Final = 100
MOST_DEMONSTRATIONS: Final = 1000  # more are a corpus
SHOWN: Final = 5  # rows that a message names
NO_ANSWER: Final = "no_answer"
REPEATED: Final = "is_a_demonstration"


@dataclass(frozen=True)
class DemoInputs:
    """Aligned demonstrations, the calibration chains, and the calibration rows that were left out, by reason."""

    demonstrations: tuple[Chain, ...]
    calibration: tuple[Chain, ...]
    left_out: dict[str, int]


def read(demos: Corpus, calibration: Corpus, num_rows: int, *, align_calibration: bool) -> DemoInputs:
    """Read both corpora. Raises UserError if they cannot be used, in one line that names rows and flags."""
    demonstrations = _demonstrations(demos)
    num_steps = len(demonstrations[0].steps)
    questions = {chain.question for chain in demonstrations}
    left_out: Counter[str] = Counter()
    chains: list[tuple[str, Chain]] = []
    for row_id, item in _rows(calibration):
        if len(chains) == num_rows:
            break
        if isinstance(item, str):
            left_out[item.split(":", 1)[0]] += 1
        elif not item.answer.strip():
            left_out[NO_ANSWER] += 1
        elif item.question in questions:  # the prompt would hold its solution
            left_out[REPEATED] += 1
        else:
            chains.append((row_id, item))
    if len(chains) < num_rows:
        told = "".join(f", {count} left out: {reason}" for reason, count in left_out.most_common())
        raise UserError(
            f"--calibration has {len(chains)} usable rows{told}; --calibration-rows asks for {num_rows}: "
            "lower it, or give more rows"
        )
    if align_calibration and (other := [(name, chain) for name, chain in chains if len(chain.steps) != num_steps]):
        raise UserError(
            f"--calibration-loses-step needs calibration chains of {num_steps} steps like the demonstrations, "
            f"but {_lengths(other)}"
        )
    return DemoInputs(demonstrations, tuple(chain for _, chain in chains), dict(left_out.most_common()))


def _demonstrations(corpus: Corpus) -> tuple[Chain, ...]:
    rows = list(itertools.islice(_rows(corpus), MOST_DEMONSTRATIONS + 1))
    if len(rows) > MOST_DEMONSTRATIONS:
        raise UserError(f"--demos has more than {MOST_DEMONSTRATIONS} rows: give it the demonstrations of one prompt")
    for row_id, item in rows:
        if isinstance(item, str):
            raise UserError(f"--demos: {row_id} cannot be used ({item}): mend or remove it")
    if not rows:
        raise UserError("--demos holds no demonstration")
    chains = [(row_id, item) for row_id, item in rows if isinstance(item, Chain)]
    [(usual, _)] = Counter(len(chain.steps) for _, chain in chains).most_common(1)
    if other := [(row_id, chain) for row_id, chain in chains if len(chain.steps) != usual]:
        raise UserError(
            f"--demos must be aligned, with step j doing the same in each: {len(chains) - len(other)} of {len(chains)} "
            f"have {usual} steps, but {_lengths(other)}"
        )
    return tuple(chain for _, chain in chains)


def _lengths(chains: Sequence[tuple[str, Chain]]) -> str:
    shown = ", ".join(f"{row_id} has {len(chain.steps)}" for row_id, chain in chains[:SHOWN])
    return shown + (f" and {len(chains) - SHOWN} more differ" if len(chains) > SHOWN else "")


def _rows(corpus: Corpus) -> Iterator[tuple[str, Chain | str]]:
    """The id of each row, with its chain or the reason why it has none. Reads no further than it is asked."""
    for number in range(len(corpus.files)):
        for table in corpus.tables(Part(number), ROWS_PER_READ):
            yield from ((row["id"], _chain(row)) for row in table.to_pylist())


def _chain(row: dict[str, Any]) -> Chain | str:
    if row["reason"] is not None:
        return str(row["reason"])
    if not row["steps"]:
        return str(RowError("no_steps"))
    return Chain(row["question"], tuple(row["steps"]), row["answer"], row["joiner"], tuple(row["separators"]))
