"""Export a refined corpus as files that TRL, LLaMA-Factory and Axolotl load as they are.

    python -m jobs.export runs/gsm8k --to sft-chat --output data/gsm8k-refined

Refined and unchanged rows leave; quarantined ones never do. For ORPO only refined rows make a pair: chosen
is the refined solution, rejected the original one.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from actors.records import RecordStore
from actors.storage import Storage, open_storage
from jobs.driver import command, manifest
from jobs.driver.command import JobConfig, UserError

Target = Literal["sft-completion", "sft-chat", "orpo"]
MESSAGES: Final = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
COLUMNS: Final = ("id", "status", "question", "answer", "steps", "refined_steps", "joiner", "source")


class ExportConfig(JobConfig):
    """Flags of `jobs.export`."""

    run: tyro.conf.Positional[str]
    """Folder of a run of jobs.refine, a path or URI."""
    output: str
    """Folder for the exported files, a path or URI. It must be new or empty."""
    to: Target = "sft-chat"
    """sft-completion: prompt, completion. sft-chat: messages. orpo: prompt, chosen, rejected as messages."""
    file_format: Literal["parquet", "jsonl"] = "parquet"
    """Kind of file."""
    rows_per_file: int = 500_000
    """A new file begins after this many rows."""


def main() -> None:
    """Entry point of `python -m jobs.export`."""
    command.main(ExportConfig, run, __doc__ or "")


def run(config: ExportConfig) -> int:
    """Write the export, whole or not at all, and say what stayed behind."""
    if config.rows_per_file < 1:
        raise UserError(f"--rows-per-file {config.rows_per_file} must be at least 1")
    try:
        source, output = open_storage(config.run), open_storage(config.output)
    except ValueError as error:
        raise UserError(str(error)) from None
    record = manifest.load(source)
    if record is None:
        raise UserError(f"no run in {config.run}: refine a corpus with --output {config.run} first")
    if record.status != "finished":
        raise UserError(f"the run in {config.run} is not finished: repeat its command: {record.sessions[-1].command}")
    if output.exists() and output.files(recursive=True):
        raise UserError(f"--output {config.output} is not empty: choose another folder")

    view, schema = VIEWS[config.to]
    left_behind = {"quarantined": 0, "unchanged": 0}
    temporary = output.parent / f".{output.name}.tmp"
    try:
        temporary.delete_folder()
        temporary.make_folder()
        rows = _rows(RecordStore(source / "rows"), view, left_behind)
        number = _write(rows, schema, temporary, config)
        if number == 0:
            raise UserError(f"no row of {config.run} can be exported as {config.to}: {_left(left_behind)}")
        if output.exists():
            output.delete_folder()
        output.filesystem.move(temporary.path, output.path)
    except OSError as error:
        raise UserError(f"cannot write --output {config.output}: {error}") from None
    finally:
        temporary.delete_folder()
    print(f"wrote {number:,} rows to {config.output}; {_left(left_behind)}")
    return 0


def _left(left_behind: Mapping[str, int]) -> str:
    parts = [f"{count:,} {status}" for status, count in left_behind.items() if count]
    return f"left behind: {', '.join(parts)}" if parts else "nothing was left behind"


def _rows(
    store: RecordStore, view: Callable[[dict[str, Any]], dict[str, Any] | None], left_behind: dict[str, int]
) -> Iterator[dict[str, Any]]:
    for batch in store.batches(COLUMNS):
        for record in batch.to_pylist():
            row = view(record) if record["status"] != "quarantined" else None
            if row is None:
                left_behind[record["status"]] += 1
            else:
                yield {"id": record["id"], **row}


def _write(rows: Iterator[dict[str, Any]], schema: pa.Schema, folder: Storage, config: ExportConfig) -> int:
    """Files of at most `rows_per_file` rows; the number of rows."""
    number = file_number = 0
    while chunk := _take(rows, min(config.rows_per_file, 1000)):
        file = folder / f"part-{file_number:05d}.{config.file_format}"
        with file.filesystem.open_output_stream(file.path) as stream:
            writer = pq.ParquetWriter(stream, schema) if config.file_format == "parquet" else None
            in_file = 0
            while chunk:
                if writer:
                    writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
                else:
                    stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chunk).encode())
                in_file += len(chunk)
                chunk = _take(rows, min(config.rows_per_file - in_file, 1000))
            if writer:
                writer.close()
        number += in_file
        file_number += 1
    return number


def _take(rows: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [row for _, row in zip(range(count), rows, strict=False)]


def _solution(record: Mapping[str, Any], steps: list[str]) -> str:
    """The steps as one text, with the answer behind them where no step states it."""
    from algorithms.chains import Chain, answer_step

    stated = answer_step(Chain(record["question"], tuple(steps), record["answer"])) is not None
    return record["joiner"].join(steps if stated else [*steps, record["answer"]])


def _completion(record: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": record["question"] + "\n", "completion": _solution(record, record["refined_steps"])}


def _chat(record: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*_prompt(record), _reply(record, record["refined_steps"])]}


def _orpo(record: dict[str, Any]) -> dict[str, Any] | None:
    if record["status"] != "refined":
        return None  # a pair of two equal solutions teaches nothing
    return {
        "prompt": _prompt(record),
        "chosen": [_reply(record, record["refined_steps"])],
        "rejected": [_reply(record, record["steps"])],
    }


def _prompt(record: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": record["question"]}]


def _reply(record: Mapping[str, Any], steps: list[str]) -> dict[str, str]:
    return {"role": "assistant", "content": _solution(record, steps)}


# Target -> how a record becomes a row (None: it stays behind), and the row's schema.
VIEWS: Final[Mapping[Target, tuple[Callable[[dict[str, Any]], dict[str, Any] | None], pa.Schema]]] = {
    "sft-completion": (
        _completion,
        pa.schema([("id", pa.string()), ("prompt", pa.string()), ("completion", pa.string())]),
    ),
    "sft-chat": (_chat, pa.schema([("id", pa.string()), ("messages", MESSAGES)])),
    "orpo": (
        _orpo,
        pa.schema([("id", pa.string()), ("prompt", MESSAGES), ("chosen", MESSAGES), ("rejected", MESSAGES)]),
    ),
}


if __name__ == "__main__":
    main()
