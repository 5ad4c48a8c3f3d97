"""Make a corpus of arithmetic word problems whose solutions contain redundant steps.

    python -m jobs.make_corpus --rows 1000 --seed 7 --output data/word_problems.jsonl

The same seed gives the same rows. The output has `--format steps`, and its column `redundant` lists the steps that say
nothing new. With --samples, each row holds worked solutions instead, right ones and wrong ones, for `jobs.grade`.
"""

import json
import random
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from actors.errors import UserError
from actors.runs.storage import Storage, open_storage
from algorithms.slips import worked
from algorithms.word_problems import generate
from jobs.driver import command
from jobs.driver.command import JobConfig

COMMON = [("id", pa.string()), ("question", pa.string()), ("answer", pa.string())]
SCHEMA = pa.schema([*COMMON, ("steps", pa.list_(pa.string())), ("redundant", pa.list_(pa.int32()))])
SAMPLES_SCHEMA = pa.schema([*COMMON, ("samples", pa.list_(pa.string()))])
SLIPS = 0.5  # of the solutions
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
    samples: int = Field(default=0, ge=0)
    """Worked solutions of each problem, half of them with a mistake, instead of its steps. 0: the steps."""

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
        row: dict[str, object] = {
            "id": f"{config.seed}-{index}",
            "question": problem.question,
            "answer": problem.answer,
        }
        if config.samples:
            rng = random.Random(f"{config.seed}:{index}:samples")
            yield row | {"samples": [worked(problem, rng, SLIPS) for _ in range(config.samples)]}
        else:
            yield row | {"steps": list(problem.steps), "redundant": list(problem.redundant)}


def _write_jsonl(config: MakeCorpusConfig, file: Storage) -> None:
    with file.filesystem.open_output_stream(file.path) as stream:
        for row in _rows(config):
            stream.write((json.dumps(row) + "\n").encode())


def _write_parquet(config: MakeCorpusConfig, file: Storage) -> None:
    schema = SAMPLES_SCHEMA if config.samples else SCHEMA
    with file.filesystem.open_output_stream(file.path) as stream, pq.ParquetWriter(stream, schema) as writer:
        chunk: list[dict[str, object]] = []
        for row in _rows(config):
            chunk.append(row)
            if len(chunk) == ROWS_PER_CHUNK:
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
                chunk = []
        if chunk:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


if __name__ == "__main__":
    main()
