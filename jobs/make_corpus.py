"""Make a corpus of solved problems whose redundant steps are known, or put such steps into a corpus.

    python -m jobs.make_corpus --rows 1000 --seed 7 --output data/word_problems.jsonl
    python -m jobs.make_corpus --mark examples/gsm8k.jsonl --format gsm8k --output data/marked.jsonl

The same flags give the same rows. The output has `--format steps`. Its column `redundant` lists the steps that say
nothing new, and `kinds` says of which kind each of them is. With --samples, each row holds worked solutions of a word
problem instead, right ones and wrong ones, for `jobs.grade`.
"""

import dataclasses
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from actors.errors import UserError
from actors.runs.corpus import Corpus, Part
from actors.runs.storage import Storage, open_storage
from algorithms.chains import Chain
from algorithms.formats import formats_for
from algorithms.tasks.catalogue import TASKS, make_problem
from algorithms.tasks.mark_text import mark_chain
from algorithms.tasks.marks import Wordings
from algorithms.tasks.problem import Difficulty, MarkedProblem
from algorithms.tasks.slips import worked
from jobs.driver import command, inputs
from jobs.driver.command import JobConfig, choice, listed

COMMON: Final = (("id", pa.string()), ("question", pa.string()), ("answer", pa.string()))
SCHEMA: Final = pa.schema(
    [
        *COMMON,
        ("steps", pa.list_(pa.string())),
        ("redundant", pa.list_(pa.int32())),
        ("kinds", pa.list_(pa.string())),
    ]
)
SAMPLES_SCHEMA: Final = pa.schema([*COMMON, ("samples", pa.list_(pa.string()))])
SLIPS: Final = 0.5  # of the solutions
ROWS_PER_CHUNK: Final = 10_000
WORD_PROBLEMS: Final = "word-problems"
MADE_ONLY: Final = ("task", "rows", "difficulty", "samples")  # flags that --mark has no use for
Row = dict[str, Any]


class MakeCorpusConfig(JobConfig):
    """Flags of `jobs.make_corpus`."""

    output: str
    """File to write, a path or URI, ending in .jsonl or .parquet."""
    task: Annotated[str, choice(TASKS)] = Field(
        default=WORD_PROBLEMS,
        description=listed("Kind of problem.", {name: task.description for name, task in TASKS.items()}),
    )
    rows: int = Field(default=1000, ge=1)
    """Number of problems."""
    seed: int = 0
    """The same seed gives the same problems. A larger corpus begins with the rows of a smaller one."""
    difficulty: Difficulty = "medium"
    """Size of the problems: more steps, larger numbers, or signs."""
    redundancy: float = Field(default=0.3, ge=0, le=1)
    """Probability of a redundant step at each place where one can stand. 0: none."""
    wordings: Wordings = "all"
    """Wordings of the redundant steps: a, b or all. No wording is in both a and b, so that what was tuned on one can be
    tested on the other."""
    samples: int = Field(default=0, ge=0)
    """Worked solutions of each word problem, half of them with a mistake, instead of its steps. 0: the steps."""
    mark: str | None = None
    """File, folder or glob of worked solutions that get redundant steps. No problems are made then."""
    format: Annotated[str, choice(formats_for("refine"))] | None = None
    """How to read a row of --mark: any format that refine reads."""
    limit: int | None = Field(default=None, ge=1)
    """Read only the first rows of --mark."""

    @model_validator(mode="after")
    def _check_together(self) -> "MakeCorpusConfig":
        if self.mark is None:
            for name in ("format", "limit"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} {getattr(self, name)} needs --mark FILE")
        elif self.format is None:
            raise ValueError(f"--mark {self.mark} needs --format, such as --format gsm8k")
        else:
            for name in MADE_ONLY:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"--{name} {getattr(self, name)} does nothing with --mark: leave it out")
        if self.samples and self.task != WORD_PROBLEMS:
            raise ValueError(f"--samples {self.samples} needs --task {WORD_PROBLEMS}: only its mistakes are known")
        return self


def main() -> None:
    """Entry point of `python -m jobs.make_corpus`."""
    command.main(MakeCorpusConfig, run, __doc__ or "")


def run(config: MakeCorpusConfig) -> int:
    """Write the corpus atomically. Returns the exit status."""
    if not config.output.endswith((".jsonl", ".parquet")):
        raise UserError(f"--output {config.output} must end in .jsonl or .parquet")
    corpus = None if config.mark is None else _open(config.mark, config.format or "", config.limit)
    unread: Counter[str] = Counter()
    rows = _made(config) if corpus is None else _marked(config, corpus, unread)
    schema = SAMPLES_SCHEMA if config.samples else SCHEMA
    try:
        output = open_storage(config.output)
        output.parent.make_folder()
        temporary = output.parent / f".{output.name}.tmp"
        num_rows = (_write_jsonl if config.output.endswith(".jsonl") else _write_parquet)(rows, schema, temporary)
        output.filesystem.move(temporary.path, output.path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write --output {config.output}: {error}") from None
    print(f"wrote {num_rows:,} problems to {config.output}")
    if unread:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in unread.most_common())
        print(f"left out {unread.total():,} rows that cannot be read: {reasons}")
    return 0


def _open(uri: str, format_name: str, limit: int | None) -> Corpus:
    """The corpus behind --mark. Its ids come from its column `id`, if it has one."""
    corpus = inputs.open_corpus(uri, format_name, {}, None, None, limit, "--mark")
    if corpus.id_column is None and "id" in inputs.columns_of(corpus):
        return dataclasses.replace(corpus, id_column="id")
    return corpus


def _made(config: MakeCorpusConfig) -> Iterator[Row]:
    """The rows of a made corpus."""
    for index in range(config.rows):
        problem = make_problem(
            config.task,
            config.seed,
            index,
            difficulty=config.difficulty,
            redundancy=config.redundancy,
            wordings=config.wordings,
        )
        row = _row(f"{config.seed}-{index}", problem)
        if config.samples:
            rng = random.Random(f"{config.seed}:{index}:samples")
            row = {name: row[name] for name, _ in COMMON}
            row["samples"] = [worked(problem, rng, SLIPS) for _ in range(config.samples)]
        yield row


def _marked(config: MakeCorpusConfig, corpus: Corpus, unread: Counter[str]) -> Iterator[Row]:
    """The rows of --mark with redundant steps. Counts the reasons of rows that cannot be read in `unread`."""
    tables = (table for file in range(len(corpus.files)) for table in corpus.tables(Part(file), ROWS_PER_CHUNK))
    rows = (row for table in tables for row in table.to_pylist())
    for row in itertools.islice(rows, config.limit):
        if row["reason"] is not None:
            unread[row["reason"].partition(":")[0]] += 1
            continue
        chain = Chain(row["question"], tuple(row["steps"]), row["answer"], row["joiner"], tuple(row["separators"]))
        yield _row(row["id"], mark_chain(chain, config.seed, row["id"], config.redundancy, config.wordings))


def _row(row_id: str, problem: MarkedProblem) -> Row:
    return {
        "id": row_id,
        "question": problem.question,
        "answer": problem.answer,
        "steps": list(problem.steps),
        "redundant": list(problem.redundant),
        "kinds": list(problem.kinds),
    }


def _write_jsonl(rows: Iterator[Row], schema: pa.Schema, file: Storage) -> int:
    """Write the rows. Returns their number."""
    num_rows = 0
    with file.filesystem.open_output_stream(file.path) as stream:
        for row in rows:
            stream.write((json.dumps(row) + "\n").encode())
            num_rows += 1
    return num_rows


def _write_parquet(rows: Iterator[Row], schema: pa.Schema, file: Storage) -> int:
    """Write the rows. Returns their number."""
    num_rows = 0
    with file.filesystem.open_output_stream(file.path) as stream, pq.ParquetWriter(stream, schema) as writer:
        while chunk := list(itertools.islice(rows, ROWS_PER_CHUNK)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            num_rows += len(chunk)
    return num_rows


if __name__ == "__main__":
    main()
