"""Export a refined corpus as files that TRL, LLaMA-Factory and Axolotl load without conversion.

    python -m jobs.export runs/refined --to sft-chat --output data/refined

Exports refined and unchanged rows, and never quarantined ones. For ORPO, only refined rows make a pair: chosen is the
refined solution, rejected the original one. All three trainers load the texts of `orpo`; `orpo-chat` is for those that
apply a chat template to lists of messages (TRL and Axolotl).
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from pydantic import Field

from actors.errors import UserError
from actors.runs import manifest
from actors.runs.folder import open_run_folder
from actors.runs.records import RecordStore
from actors.runs.storage import Storage, open_storage
from algorithms.chain_formats import chat_turns, with_reasoning
from algorithms.chains import recorded_chain, solution_text
from algorithms.formats import FORMATS
from jobs.driver import command
from jobs.driver.command import JobConfig

Target = Literal["sft-completion", "sft-chat", "orpo", "orpo-chat"]
MESSAGES: Final = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
UNFINISHED: Final = "_unfinished"  # there from the first file to the last
PART: Final = re.compile(r"part-\d{5,}\.(parquet|jsonl)")
COLUMNS: Final = (
    "id", "status", "question", "answer", "steps", "separators", "refined_steps", "refined_separators", "joiner",
    "source",
)  # fmt: skip


class ExportConfig(JobConfig):
    """Flags of `jobs.export`."""

    run: tyro.conf.Positional[str]
    """Folder of a run of jobs.refine, a path or URI."""
    output: str
    """Folder for the exported files, a path or URI. It must be new or empty."""
    to: Target = "sft-chat"
    """sft-completion: prompt, completion. sft-chat: messages. orpo: prompt, chosen, rejected; orpo-chat: the
    same as lists of messages."""
    file_format: Literal["parquet", "jsonl"] = "parquet"
    """Format of the files."""
    rows_per_file: int = Field(default=500_000, ge=1)
    """Maximum number of rows in a file."""


def main() -> None:
    """Entry point of `python -m jobs.export`."""
    command.main(ExportConfig, run, __doc__ or "")


def run(config: ExportConfig) -> int:
    """Write the files, and print how many rows were left out. A mark shows that an export is not finished."""
    source, output = open_run_folder(config.run), open_storage(config.output)
    record = manifest.load(source)
    if record is None:
        raise UserError(f"no run in {config.run}: refine a corpus with --output {config.run} first")
    if record.status != "finished":
        raise UserError(f"the run in {config.run} is not finished: repeat its command: {record.sessions[-1].command}")
    names = output.names()
    if names and UNFINISHED not in names:
        raise UserError(f"--output {config.output} is not empty: choose another folder")

    is_chat = record.config["format"] == "chat"
    messages_column = {**FORMATS["chat"].columns, **record.config["columns"]}["messages"] if is_chat else None
    left_out = {"quarantined": 0, "unchanged": 0}
    try:
        _discard(output)  # what an export that was killed has left
        output.make_folder()
        (output / UNFINISHED).write_bytes(b"")
        rows = _rows(RecordStore(source), config.to, messages_column, left_out)
        number = _write(rows, VIEWS[config.to].schema, output, config)
        if number == 0:
            raise UserError(f"no row of {config.run} can be exported as {config.to}: {_left(left_out)}")
        (output / UNFINISHED).delete_file()
    except OSError as error:
        _discard(output)
        raise UserError(f"cannot write --output {config.output}: {error}") from None
    except BaseException:
        _discard(output)
        raise
    print(f"wrote {number:,} rows to {config.output}; {_left(left_out)}")
    return 0


def _discard(output: Storage) -> None:
    """Delete what an unfinished export has written. The mark goes last."""
    with contextlib.suppress(OSError):  # another error is on its way
        names = output.names()
        if UNFINISHED in names:
            for name in filter(PART.fullmatch, names):
                (output / name).delete_file()
            (output / UNFINISHED).delete_file()
        if not output.names():
            output.delete_folder()


def _left(left_out: Mapping[str, int]) -> str:
    parts = [f"{count:,} {status}" for status, count in left_out.items() if count]
    return f"left out: {', '.join(parts)}" if parts else "no row was left out"


def _rows(
    store: RecordStore, target: Target, messages_column: str | None, left_out: dict[str, int]
) -> Iterator[dict[str, Any]]:
    view = VIEWS[target]
    try:
        for batch in store.batches(COLUMNS):
            for record in batch.to_pylist():
                if record["status"] == "quarantined" or (view.refined_only and record["status"] == "unchanged"):
                    left_out[record["status"]] += 1
                else:
                    yield {"id": record["id"], **view.row(_pair(record, messages_column))}
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read the records of the run: {error}") from None


def _write(rows: Iterator[dict[str, Any]], schema: pa.Schema, folder: Storage, config: ExportConfig) -> int:
    """Write files of at most `rows_per_file` rows. Returns the number of rows."""
    number = file_number = 0
    while chunk := _next_rows(rows, min(config.rows_per_file, 1000)):
        file = folder / f"part-{file_number:05d}.{config.file_format}"
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(file.writing())
            is_parquet = config.file_format == "parquet"
            writer = stack.enter_context(pq.ParquetWriter(stream, schema)) if is_parquet else None
            in_file = 0
            while chunk:
                if writer:
                    writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
                else:
                    stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chunk).encode())
                in_file += len(chunk)
                chunk = _next_rows(rows, min(config.rows_per_file - in_file, 1000))
        number += in_file
        file_number += 1
    return number


def _next_rows(rows: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [row for _, row in zip(range(count), rows, strict=False)]


@dataclass(frozen=True)
class _Pair:
    """A record as a training example: a prompt, the refined reply and the original one."""

    prompt: list[dict[str, str]]
    question: str
    refined: str
    original: str


def _pair(record: dict[str, Any], messages_column: str | None) -> _Pair:
    """The prompt and replies of a record. Chats get their turns and <think> tags back."""
    prompt = [{"role": "user", "content": record["question"]}]
    chains = [recorded_chain(record, refined=refined) for refined in (True, False)]
    refined, original = map(solution_text, chains)
    if messages_column is not None:
        *turns, (_, reply) = chat_turns(json.loads(record["source"])[messages_column], record["id"])
        prompt = [{"role": role, "content": content} for role, content in turns]
        refined, original = (with_reasoning(reply, chain.text) for chain in chains)
    return _Pair(prompt, record["question"], refined, original)


def _reply(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


def _columns(kind: pa.DataType, *names: str) -> pa.Schema:
    return pa.schema([("id", pa.string()), *((name, kind) for name in names)])


@dataclass(frozen=True)
class _View:
    """How a pair becomes a row. `refined_only` leaves out unchanged rows: a pair of equal replies teaches nothing."""

    row: Callable[[_Pair], dict[str, Any]]
    schema: pa.Schema
    refined_only: bool = False


VIEWS: Final[Mapping[Target, _View]] = {
    "sft-completion": _View(
        lambda pair: {"prompt": pair.question + "\n", "completion": pair.refined},
        _columns(pa.string(), "prompt", "completion"),
    ),
    "sft-chat": _View(
        lambda pair: {"messages": [*pair.prompt, *_reply(pair.refined)]},
        _columns(MESSAGES, "messages"),
    ),
    "orpo": _View(
        lambda pair: {"prompt": pair.question + "\n", "chosen": pair.refined, "rejected": pair.original},
        _columns(pa.string(), "prompt", "chosen", "rejected"),
        refined_only=True,
    ),
    "orpo-chat": _View(
        lambda pair: {"prompt": pair.prompt, "chosen": _reply(pair.refined), "rejected": _reply(pair.original)},
        _columns(MESSAGES, "prompt", "chosen", "rejected"),
        refined_only=True,
    ),
}


if __name__ == "__main__":
    main()
