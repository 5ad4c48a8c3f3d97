"""Files of rows -> tokenised examples: the tasks of a training run's first stage.

There is one record for each example, and one for each row or solution that is not trained on, with the reason. The
tables have EXAMPLE_SCHEMA. This module does not import torch, which takes longer than most of these tasks.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any, Final

import pyarrow as pa
from jinja2 import TemplateError

from actors.models.source import ModelSource, encode_prompt
from actors.runs.corpus import Corpus
from algorithms.lessons import Example, Lesson, UnusedRow, View, place, problem_key, read_lessons, record_id
from algorithms.prompts import PromptStyle

SOLUTION_TYPE: Final = pa.struct(
    [
        ("tokens", pa.list_(pa.int32())),
        ("num_prompt_tokens", pa.int32()),
        ("is_right", pa.bool_()),
        ("beta", pa.list_(pa.float32())),  # one value, or one for each scored token; null if not precomputed
        ("topk_ids", pa.large_list(pa.int32())),  # of all scored tokens, concatenated
        ("topk_logprobs", pa.large_list(pa.float32())),
    ]
)
EXAMPLE_SCHEMA: Final = pa.schema(
    [
        ("place", pa.int64()),
        ("id", pa.string()),
        ("part", pa.string()),  # train, validation, unused
        ("unused", pa.string()),  # the reason; such a record has no solutions
        ("num_tokens", pa.int64()),
        ("solutions", pa.list_(SOLUTION_TYPE)),
    ]
)
LESSONS_PER_BLOCK: Final = 2000
LESSON_SCHEMA: Final = pa.schema(
    [
        ("problem", pa.string()),
        ("unused", pa.string()),
        ("id", pa.string()),
        ("question", pa.string()),
        ("prompt", pa.string()),  # JSON; null if the prompt style makes it from the question
        ("text", pa.string()),
        ("is_right", pa.bool_()),
        ("split", pa.string()),
        ("rejected", pa.string()),
        ("is_cut", pa.bool_()),
    ]
)


def read_files(batch: dict[str, Any], corpora: tuple[Corpus, ...]) -> Iterator[pa.Table]:
    """The lessons of some files, as tables of LESSON_SCHEMA.

    `batch["id"]` holds the indices of the files in the list of all files of all corpora. With several corpora, ids
    begin with the index of the corpus.
    """
    numbered = [(name, corpus, index) for name, corpus in enumerate(corpora) for index in range(len(corpus.files))]
    for number in batch["id"]:
        which, corpus, index = numbered[int(number)]
        yield from _lessons(corpus, index, f"{which}/" if len(corpora) > 1 else "")


def _lessons(corpus: Corpus, index: int, prefix: str) -> Iterator[pa.Table]:
    block: list[dict[str, Any]] = []
    for row, record in enumerate(corpus.records(index)):
        row_id = f"{corpus.files[index].name}:{row}"
        try:
            lessons = [_lesson_row(lesson, prefix) for lesson in read_lessons(record, row_id)]
        except UnusedRow as error:
            unused_id = prefix + record_id(record, row_id)
            lessons = [{"problem": f"{prefix}{row_id}", "unused": str(error), "id": unused_id}]
        block += lessons
        if len(block) >= LESSONS_PER_BLOCK:
            yield pa.Table.from_pylist(block, schema=LESSON_SCHEMA)
            block = []
    yield pa.Table.from_pylist(block, schema=LESSON_SCHEMA)


def _lesson_row(lesson: Lesson, prefix: str) -> dict[str, Any]:
    prompt = None if lesson.prompt is None else json.dumps(lesson.prompt)
    return asdict(lesson) | {"problem": problem_key(lesson.question), "id": prefix + lesson.id, "prompt": prompt}


class MakeExamples:
    """The callable that makes examples of lessons. A table must hold all lessons of each of its problems."""

    def __init__(
        self, view: View, model: ModelSource, style: PromptStyle, max_tokens: int, loss_on_prompt: bool, seed: int
    ) -> None:
        self._view = view
        self._tokenizer = model.tokenizer
        self._style = style
        self._max_tokens = max_tokens
        self._loss_on_prompt = loss_on_prompt
        self._seed = seed

    def __call__(self, table: pa.Table) -> pa.Table:
        """A table of LESSON_SCHEMA in, the table of EXAMPLE_SCHEMA out."""
        by_problem: dict[str, list[Lesson]] = {}
        rows = []
        for row in table.to_pylist():
            if row["unused"]:
                rows.append(self._unused(row["id"], row["unused"]))
                continue
            prompt = None if row["prompt"] is None else _prompt(json.loads(row["prompt"]))
            values = {each.name: row[each.name] for each in fields(Lesson)}
            by_problem.setdefault(row["problem"], []).append(Lesson(**values | {"prompt": prompt}))
        for lessons in by_problem.values():
            examples, unused = self._view(sorted(lessons, key=lambda lesson: lesson.id), self._seed)
            rows += [self._unused(lesson.id, reason) for lesson, reason in unused]
            for example in examples:
                rows += self._example(example)
        return pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)

    def _unused(self, row_id: str, reason: str) -> dict[str, Any]:
        return {"place": place(self._seed, row_id), "id": row_id, "part": "unused", "unused": reason}

    def _example(self, example: Example) -> list[dict[str, Any]]:
        try:
            solutions = [self._solution(lesson) for lesson in example.lessons]
        except TemplateError:
            return [self._unused(lesson.id, "template") for lesson in example.lessons]
        longest = max(len(solution["tokens"]) for solution in solutions)
        if longest > self._max_tokens:
            return [self._unused(lesson.id, "too_long") for lesson in example.lessons]
        row = {
            "place": place(self._seed, example.id),
            "id": example.id,
            "part": example.lessons[0].split,
            "num_tokens": longest,
            "solutions": solutions,
        }
        return [row]

    def _solution(self, lesson: Lesson) -> dict[str, Any]:
        """The prompt brings the beginning-of-text token. A solution ends with end-of-text unless it was cut."""
        prompt = lesson.prompt if lesson.prompt is not None else self._style.prompt(lesson.question)
        before = encode_prompt(self._tokenizer, prompt)
        after = self._tokenizer(lesson.text, add_special_tokens=False, verbose=False)["input_ids"]
        return {
            "tokens": [*before, *after, *([] if lesson.is_cut else [self._tokenizer.eos_token_id])],
            "num_prompt_tokens": 1 if self._loss_on_prompt else len(before),
            "is_right": lesson.is_right,
        }


def _prompt(value: Any) -> Any:
    """A prompt from its JSON value."""
    return value if isinstance(value, str) else tuple((role, content) for role, content in value)
