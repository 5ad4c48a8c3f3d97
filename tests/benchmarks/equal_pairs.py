"""Searches the shared MATH samples for answers that are judged equal although they differ.

    python -m tests.benchmarks.equal_pairs --output runs/equal-pairs.jsonl

Compares every two answers to one problem whose normalised strings differ, and counts the pairs judged equal. Those that
math-verify does not confirm are written to a file for a person to read: nobody else can tell whether they are equal.
"""

import argparse
import asyncio
import itertools
import json
from pathlib import Path

import pyarrow.parquet as pq

from actors.errors import CallFailed
from actors.processes import grading
from actors.processes.pool import KillablePool
from algorithms.answers.asked import asked_by, equal_as_asked
from algorithms.answers.extraction import extract, last_boxed
from algorithms.answers.string_rule import normalise
from algorithms.answers.structure import UnparsableAnswer
from tests.benchmarks.measured import SHARED_DATA, write_result

LIMIT_SECONDS = 10.0
IN_FLIGHT = 16


def problems(rows):
    """For each problem its question, and its gold and stated answers whose normalised strings differ."""
    tables = [pq.read_table(SHARED_DATA / "math_teacher" / f"{name}.parquet") for name in ("gpt-4", "gpt-3.5-turbo")]
    answers = {}
    for record in itertools.chain.from_iterable(table.slice(0, rows).to_pylist() for table in tables):
        found = [extract(text) for text in record["generated_answer"] if text]
        given = [last_boxed(record["answer"]), *(each.answer for each in found if each is not None)]
        distinct = answers.setdefault(record["question"], {})
        for text in filter(None, given):
            distinct.setdefault(normalise(text), text)
    return [(question, list(distinct.values())) for question, distinct in answers.items() if len(distinct) > 1]


def equal_pairs(question, answers):
    """The pairs judged equal, each with math-verify's verdict, in one process of the pool."""
    asked = asked_by(question)
    pairs = [pair for pair in itertools.combinations(answers, 2) if _are_equal(asked, *pair)]
    return [(*pair, _is_confirmed(*pair)) for pair in pairs]


def _are_equal(asked, one, other):
    try:
        return equal_as_asked(asked, one, other)
    except UnparsableAnswer:
        return False


def _is_confirmed(one, other):
    """Whether math-verify judges two answers equal, in either order. Its parser raises many kinds of exceptions."""
    from math_verify import parse, verify

    try:
        sides = [parse(text if "$" in text else f"${text}$", parsing_timeout=None) for text in (one, other)]
        return any(verify(*pair, timeout_seconds=None) for pair in (sides, sides[::-1]))
    except Exception:  # noqa: BLE001
        return False


async def search(found):
    """Every pair judged equal as (question, one, other, confirmed), and the number of problems without a result."""
    pool = KillablePool(2, grading.PRELOAD, grading.prepare)
    gate = asyncio.Semaphore(IN_FLIGHT)
    failed = 0

    async def one_problem(question, answers):
        nonlocal failed
        async with gate:
            try:
                pairs = await pool.call(equal_pairs, question, answers, limit_seconds=LIMIT_SECONDS)
            except (CallFailed, MemoryError):
                failed += 1
                return []
        return [(question, *pair) for pair in pairs]

    try:
        parts = await asyncio.gather(*itertools.starmap(one_problem, found))
    finally:
        pool.close()
    return list(itertools.chain.from_iterable(parts)), failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--output", type=Path, default=Path("runs/equal-pairs.jsonl"))
    args = parser.parse_args()
    found = problems(args.rows)
    pairs, failed = asyncio.run(search(found))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    unconfirmed = [dict(zip(("question", "one", "other"), pair, strict=False)) for pair in pairs if not pair[3]]
    args.output.write_text("".join(json.dumps(pair) + "\n" for pair in unconfirmed))
    numbers = {
        "problems": len(found),
        "problems_without_result": failed,
        "pairs_compared": sum(len(answers) * (len(answers) - 1) // 2 for _, answers in found),
        "pairs_judged_equal": len(pairs),
        "confirmed_by_math_verify": len(pairs) - len(unconfirmed),
    }
    print(write_result("equal_pairs", numbers).read_text())


if __name__ == "__main__":
    main()
