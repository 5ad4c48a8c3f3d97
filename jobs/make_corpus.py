"""Make a corpus of arithmetic word problems whose solutions contain redundant steps.

    python -m jobs.make_corpus --rows 1000 --seed 7 --output data/word_problems.jsonl

The same seed gives the same rows. The output has `--format steps`, and its column `redundant` lists the steps that say
nothing new.
"""

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from actors.errors import UserError
from actors.runs.storage import Storage, open_storage
from algorithms.word_problems import generate
from jobs.driver import command
from jobs.driver.command import JobConfig

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("steps", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("redundant", pa.list_(pa.int32())),
    ]
)
ROWS_PER_CHUNK = 10_000


class MakeCorpusConfig(JobConfig):
    """Flags of `jobs.make_corpus`."""

    output: str
    """File to write, a path or URI, ending in .jsonl or .parquet."""
    rows: int = Field(default=1000, ge=1)
    """Number of problems."""
    seed: int = 0
    """The same seed gives the same problems. A larger corpus begins with the rows of a smaller one."""
    min_operations: int = Field(default=2, ge=1)
    """Minimum number of calculations in a problem."""
    max_operations: int = Field(default=5, ge=1)
    """Maximum number of calculations in a problem."""

    @model_validator(mode="after")
    def _check_operations(self) -> "MakeCorpusConfig":
        if self.max_operations < self.min_operations:
            raise ValueError(
                f"--max-operations {self.max_operations} is below --min-operations {self.min_operations}: raise it"
            )
        return self


def main() -> None:
    """Entry point of `python -m jobs.make_corpus`."""
    command.main(MakeCorpusConfig, run, __doc__ or "")


def run(config: MakeCorpusConfig) -> int:
    """Write the corpus atomically. Returns the exit status."""
    if not config.output.endswith((".jsonl", ".parquet")):
        raise UserError(f"--output {config.output} must end in .jsonl or .parquet")
    try:
        output = open_storage(config.output)
        output.parent.make_folder()
        temporary = output.parent / f".{output.name}.tmp"
        (_write_jsonl if config.output.endswith(".jsonl") else _write_parquet)(config, temporary)
        output.filesystem.move(temporary.path, output.path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write --output {config.output}: {error}") from None
    print(f"wrote {config.rows:,} problems to {config.output}")
    return 0


def _rows(config: MakeCorpusConfig) -> Iterator[dict[str, object]]:
    for index in range(config.rows):
        problem = generate(config.seed, index, (config.min_operations, config.max_operations))
        yield {
            "id": f"{config.seed}-{index}",
            "question": problem.question,
            "steps": list(problem.steps),
            "answer": problem.answer,
            "redundant": list(problem.redundant),
        }


def _write_jsonl(config: MakeCorpusConfig, file: Storage) -> None:
    with file.filesystem.open_output_stream(file.path) as stream:
        for row in _rows(config):
            stream.write((json.dumps(row) + "\n").encode())


def _write_parquet(config: MakeCorpusConfig, file: Storage) -> None:
    with file.filesystem.open_output_stream(file.path) as stream, pq.ParquetWriter(stream, SCHEMA) as writer:
        chunk: list[dict[str, object]] = []
        for row in _rows(config):
            chunk.append(row)
            if len(chunk) == ROWS_PER_CHUNK:
                writer.write_table(pa.Table.from_pylist(chunk, schema=SCHEMA))
                chunk = []
        if chunk:
            writer.write_table(pa.Table.from_pylist(chunk, schema=SCHEMA))


if __name__ == "__main__":
    main()
