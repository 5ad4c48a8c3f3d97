"""Graded runs -> the recorded samples of each problem, as pools for votes and replays.

Tasks read parts of the runs into compact tables (some 100 bytes a sample), which the driver gathers. A question that
several runs, or several problems of one run, have in common is one problem with all their samples.
"""

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.errors import UserError
from actors.evaluation import join_classes, read_samples, sample_schema
from actors.runs.corpus import Corpus
from algorithms.voting.pools import Pools
from algorithms.voting.recorded import Columns, pools_of_columns
from algorithms.voting.summaries import Problems
from jobs.driver import cluster, reading

PROBLEMS_PER_TASK: Final = 250


@dataclass(frozen=True)
class RecordedSamples:
    """The problems in order of their hash: `hashes` [P] of the questions, `pools`, and what else is known of them.

    `unit`: what the cost of a sample is counted in. `unused` counts the problems without graded samples, by reason.
    """

    hashes: Any
    pools: Pools
    problems: Problems
    unit: str
    unused: Counter[str]


def read(corpora: Sequence[Corpus], split: str | None, by: Sequence[str], budget: int | None = None) -> RecordedSamples:
    """The samples of graded runs, of one split or of all. Needs Ray.

    Of each problem at most the first `budget`, by default the median number: a question that a corpus holds twice has
    twice as many samples.

    Raises UserError if there are none.
    """
    table = _read(corpora, split, by)
    unused: Counter[str] = Counter(reason.split(":")[0] for reason in table["unused"].drop_null().to_pylist())
    table = table.filter(pc.is_null(table["unused"]))
    if not table.num_rows:
        where = "" if split is None else f" of the split {split}"
        raise UserError(f"--input: there are no graded samples{where}")
    table = table.sort_by([("problem", "ascending"), ("origin", "ascending"), ("index", "ascending")])
    # Before the budget cuts: the sample that carries the answer of a class may be one that is cut.
    _, owners = np.unique(table["problem"].to_numpy(), return_inverse=True)
    table = _first(table.append_column("joined_class", pa.array(_classes(table, owners))), budget)
    hashes, first, problems = np.unique(table["problem"].to_numpy(), return_index=True, return_inverse=True)
    has_tokens = table["tokens"].null_count == 0
    cost = table["tokens" if has_tokens else "characters"].to_numpy().astype(float)
    correct = pc.fill_null(pc.cast(table["correct"], pa.int8()), -1).to_numpy()
    columns = Columns(
        problems=problems.astype(np.int64),
        classes=table["joined_class"].to_numpy(),
        correct=correct,
        scores=_floats(table["score"]),
        logprobs=_floats(table["logprob"]),
        tokens=cost,
        checks=np.zeros((len(cost), 0)),
    )
    sizes = np.bincount(problems)
    mean_logprob = np.bincount(problems, weights=columns.logprobs) / sizes
    known = Problems(
        num_samples=sizes,
        num_right=np.bincount(problems, weights=correct == 1).astype(np.int64),
        tokens=np.bincount(problems, weights=cost).astype(np.float64),
        perplexity=np.exp(-mean_logprob),
        groups={name: values for name in by if any(values := _group(table, name, first))},
    )
    return RecordedSamples(hashes, pools_of_columns(columns), known, "tokens" if has_tokens else "characters", unused)


def _read(corpora: Sequence[Corpus], split: str | None, by: Sequence[str]) -> pa.Table:
    import ray.data

    given = [
        pa.table({"part": [pickle.dumps((corpus.only(part.file), run, part))]})
        for run, corpus in enumerate(corpora)
        for part in reading.plan_reading(corpus)
    ]
    if not given:
        return sample_schema(by).empty_table()
    compact: Any = read_samples
    with cluster.worker_errors():
        read = ray.data.from_arrow(given).map_batches(compact, batch_size=1, fn_kwargs={"split": split, "by": by})
        tables: list[Any] = list(read.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    return pa.concat_tables([table.cast(sample_schema(by)) for table in tables if table.num_columns])


def _first(table: pa.Table, budget: int | None) -> pa.Table:
    """At most the first `budget` samples of each problem, of a table in the order of problems."""
    problems = table["problem"].to_numpy()
    starts = np.flatnonzero(np.r_[True, problems[1:] != problems[:-1]])
    sizes = np.diff(np.r_[starts, len(problems)])
    place = np.arange(len(problems)) - np.repeat(starts, sizes)
    return table.filter(pa.array(place < (budget or np.median(sizes))))


def _floats(column: Any) -> Any:
    return pc.fill_null(column, float("nan")).to_numpy()


def _group(table: pa.Table, name: str, first: Any) -> list[str]:
    """The value of a group for each problem, that of its first sample."""
    return table[f"by_{name}"].take(pa.array(first)).to_pylist()


def _classes(table: pa.Table, problems: Any) -> Any:
    """The class of each sample [S], -1 without a vote. The classes of a question of several origins are joined."""
    origins = table["origin"].to_numpy()
    classes = pc.fill_null(table["answer_class"], -1).to_numpy().astype(np.int64)
    starts = np.flatnonzero(np.r_[True, origins[1:] != origins[:-1]])
    owners, counts = np.unique(problems[starts], return_counts=True)
    shared = owners[counts > 1]
    if not len(shared):
        return classes
    rows = np.flatnonzero(np.isin(problems, shared))
    answers = table["answer"].take(pa.array(rows)).to_pylist()
    stated: dict[int, dict[int, dict[int, str]]] = {}  # problem -> origin -> class -> answer
    for row, answer in zip(rows.tolist(), answers, strict=True):
        if answer is not None:
            of_origin = stated.setdefault(int(problems[row]), {}).setdefault(int(origins[row]), {})
            of_origin.setdefault(int(classes[row]), answer)
    joined = _joined([[list(each.values()) for each in of_problem.values()] for of_problem in stated.values()])
    numbers = {
        (problem, origin, number): joint
        for (problem, of_problem), found in zip(stated.items(), joined, strict=True)
        for (origin, each), mine in zip(of_problem.items(), found, strict=True)
        for number, joint in zip(each, mine, strict=True)
    }
    for row in rows.tolist():
        if classes[row] >= 0:
            classes[row] = numbers[int(problems[row]), int(origins[row]), int(classes[row])]
    return classes


def _joined(problems: list[list[list[str]]]) -> list[list[list[int]]]:
    import ray

    call = ray.remote(join_classes)
    num_tasks = max(1, 2 * int(ray.cluster_resources().get("CPU", 1)))
    size = max(PROBLEMS_PER_TASK, -(-len(problems) // num_tasks))  # a task starts a process, which takes seconds
    chunks = [problems[start : start + size] for start in range(0, len(problems), size)]
    with cluster.worker_errors():
        return [classes for part in ray.get([call.remote(chunk) for chunk in chunks]) for classes in part]
