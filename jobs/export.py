"""Export a refined corpus as files that TRL, LLaMA-Factory and Axolotl load as they are.

    python -m jobs.export runs/gsm8k --to sft-chat --output data/gsm8k-refined

Refined and unchanged rows leave; quarantined ones never do. For ORPO only refined rows make a pair: chosen
is the refined solution, rejected the original one. Texts in `orpo` load in all three trainers; `orpo-chat`
is for those that apply a chat template to lists of messages (TRL, Axolotl).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from pydantic import Field

from actors.records import RecordStore
from actors.storage import Storage, open_storage
from algorithms.chain_formats import chat_turns, with_reasoning
from algorithms.chains import Chain, answer_step
from algorithms.formats import FORMATS
from jobs.driver import command, manifest
from jobs.driver.command import JobConfig, UserError

Target = Literal["sft-completion", "sft-chat", "orpo", "orpo-chat"]
MESSAGES: Final = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
COLUMNS: Final = ("id", "status", "question", "answer", "steps", "refined_steps", "joiner", "source")


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
    """Kind of file."""
    rows_per_file: int = Field(default=500_000, ge=1)
    """A new file begins after this many rows."""


def main() -> None:
    """Entry point of `python -m jobs.export`."""
    command.main(ExportConfig, run, __doc__ or "")


def run(config: ExportConfig) -> int:
    """Write the export, whole or not at all, and say what stayed behind."""
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

    is_chat = record.config["format"] == "chat"
    messages_column = {**FORMATS["chat"].columns, **record.config["columns"]}["messages"] if is_chat else None
    left_behind = {"quarantined": 0, "unchanged": 0}
    temporary = output.parent / f".{output.name}.tmp"
    try:
        temporary.delete_folder()
        temporary.make_folder()
        rows = _rows(RecordStore(source / "rows"), config.to, messages_column, left_behind)
        number = _write(rows, VIEWS[config.to][1], temporary, config)
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
    store: RecordStore, target: Target, messages_column: str | None, left_behind: dict[str, int]
) -> Iterator[dict[str, Any]]:
    view, _, refined_only = VIEWS[target]
    for batch in store.batches(COLUMNS):
        for record in batch.to_pylist():
            if record["status"] == "quarantined" or (refined_only and record["status"] == "unchanged"):
                left_behind[record["status"]] += 1
            else:
                yield {"id": record["id"], **view(_pair(record, messages_column))}


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


@dataclass(frozen=True)
class _Pair:
    """What a record teaches: a prompt, the refined reply and the original one."""

    prompt: list[dict[str, str]]
    question: str
    refined: str
    original: str


def _pair(record: dict[str, Any], messages_column: str | None) -> _Pair:
    """The prompt and replies of a record; a corpus of chats gets its turns and its <think> tags back."""
    prompt = [{"role": "user", "content": record["question"]}]
    refined, original = (_solution(record, record[name]) for name in ("refined_steps", "steps"))
    if messages_column is not None:
        *turns, (_, reply) = chat_turns(json.loads(record["source"])[messages_column], record["id"])
        prompt = [{"role": role, "content": content} for role, content in turns]
        refined, original = (
            with_reasoning(reply, record["joiner"].join(record[name])) for name in ("refined_steps", "steps")
        )
    return _Pair(prompt, record["question"], refined, original)


def _solution(record: Mapping[str, Any], steps: list[str]) -> str:
    """The steps as one text, with the answer behind them where no step states it."""
    stated = answer_step(Chain(record["question"], tuple(steps), record["answer"])) is not None
    return record["joiner"].join(steps if stated else [*steps, record["answer"]])


def _reply(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


def _columns(kind: pa.DataType, *names: str) -> pa.Schema:
    return pa.schema([("id", pa.string()), *((name, kind) for name in names)])


# Target -> how a pair becomes a row, its columns, and whether only refined rows make one: a pair of two
# equal replies teaches nothing.
VIEWS: Final[Mapping[Target, tuple[Callable[[_Pair], dict[str, Any]], pa.Schema, bool]]] = {
    "sft-completion": (
        lambda pair: {"prompt": pair.question + "\n", "completion": pair.refined},
        _columns(pa.string(), "prompt", "completion"),
        False,
    ),
    "sft-chat": (
        lambda pair: {"messages": [*pair.prompt, *_reply(pair.refined)]},
        _columns(MESSAGES, "messages"),
        False,
    ),
    "orpo": (
        lambda pair: {"prompt": pair.question + "\n", "chosen": pair.refined, "rejected": pair.original},
        _columns(pa.string(), "prompt", "chosen", "rejected"),
        True,
    ),
    "orpo-chat": (
        lambda pair: {"prompt": pair.prompt, "chosen": _reply(pair.refined), "rejected": _reply(pair.original)},
        _columns(MESSAGES, "prompt", "chosen", "rejected"),
        True,
    ),
}


if __name__ == "__main__":
    main()
