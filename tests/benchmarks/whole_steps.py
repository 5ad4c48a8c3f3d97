"""Splits all shared solutions and samples, and counts steps that are halves and texts that change.

    python -m tests.benchmarks.whole_steps

A step is a half if it is unbalanced and the whole text is not. `by_count` is a second judge that knows nothing of
`algorithms.markup`: it counts environments, brackets, drawings, fences and dollar signs.
"""

import json
import re

import pyarrow.parquet as pq

from algorithms.markup import is_balanced
from algorithms.segmentation import SPLITS, split_steps
from tests.benchmarks.measured import SHARED_DATA, write_result

PAIRS = ((r"\[", r"\]"), (r"\(", r"\)"), ("[asy]", "[/asy]"))


def corpora():
    """Name of the corpus -> its texts."""
    found = {}
    for name in ("gpt-4", "gpt-3.5-turbo"):
        table = pq.read_table(SHARED_DATA / "math_teacher" / f"{name}.parquet").to_pydict()
        found["MATH solutions"] = list(dict.fromkeys(table["answer"]))
        found[f"{name} samples"] = [text for texts in table["generated_answer"] for text in texts if text]
    lines = [line for part in ("train", "test") for line in (SHARED_DATA / "gsm8k" / f"{part}.jsonl").open()]
    found["GSM8K solutions"] = [re.sub(r"<<[^<>]*>>", "", json.loads(line)["answer"]) for line in lines]
    answers = [json.loads(line) for line in (SHARED_DATA / "gsm8k" / "model_solutions.jsonl").open()]
    found["GSM8K model solutions"] = [
        value["solution"] for row in answers for value in row.values() if isinstance(value, dict)
    ]
    return found


def balances_by_count(text):
    """Whether every kind of mark occurs as often as its partner."""
    text = text.replace("\\\\", "")
    environments = [sorted(re.findall(rf"\\{kind}\{{([^}}]*)\}}", text)) for kind in ("begin", "end")]
    return (
        environments[0] == environments[1]
        and all(text.count(opening) == text.count(closing) for opening, closing in PAIRS)
        and len(re.findall(r"(?<!\\)\$", text)) % 2 == text.count("```") % 2 == 0
    )


def measure(texts, split):
    counts = dict.fromkeys(("steps", "changed_texts", "texts_with_halves", "texts_with_halves_by_count"), 0)
    for text in texts:
        steps, separators = split_steps(text, split)
        counts["steps"] += len(steps)
        counts["changed_texts"] += "".join(map("".join, zip(steps, (*separators, ""), strict=True))) != text.strip()
        counts["texts_with_halves"] += is_balanced(text) and not all(map(is_balanced, steps))
        # Money makes the number of dollar signs odd, so only texts without it can be judged by counting.
        if not re.search(r"(?<!\\)\$\s*(?:<<)?[\d.]", text) and balances_by_count(text):
            counts["texts_with_halves_by_count"] += not all(map(balances_by_count, steps))
    return counts


def main():
    results = {}
    for name, texts in corpora().items():
        results[name] = {"texts": len(texts), **{split: measure(texts, split) for split in SPLITS}}
        print(name, results[name], flush=True)
    print(write_result("whole_steps", {"corpora": results}).read_text())


if __name__ == "__main__":
    main()
