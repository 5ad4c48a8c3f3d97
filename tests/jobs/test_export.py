"""Exported files are what trainers load: datasets reads them, TRL's SFT and ORPO trainers take two steps."""

import json

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from actors.errors import UserError
from jobs import export
from tests.fixtures.runs import command, records, refine_with_table, write_lines, write_problems
from tests.fixtures.verbs import call

TARGETS = ("sft-completion", "sft-chat", "orpo", "orpo-chat")


@pytest.fixture(scope="module")
def run(tmp_path_factory, ray_session):
    """A finished run of 40 problems, two of them broken."""
    folder = tmp_path_factory.mktemp("export")
    source = write_problems(folder / "c.jsonl", 40)
    with source.open("a") as lines:
        lines.write('{"question": null}\nnonsense\n')
    assert refine_with_table(input=str(source), output=str(folder / "run")) == 0
    return folder / "run"


def load(folder, file_format="parquet"):
    """Exported files, as datasets reads them."""
    kind = "json" if file_format == "jsonl" else "parquet"
    return load_dataset(kind, data_files=str(folder / "*"), cache_dir=f"{folder}-cache")["train"]


def exported_records(run, to):
    """The records of a run that an export contains, by id."""
    statuses = {"refined"} if to.startswith("orpo") else {"refined", "unchanged"}
    return {row_id: record for row_id, record in records(run).items() if record["status"] in statuses}


def expected_row(record, to):
    """A record as a trainer reads it."""
    question, refined, original = record["question"], "\n".join(record["refined_steps"]), "\n".join(record["steps"])
    user, chosen, rejected = (
        {"role": role, "content": content}
        for role, content in (("user", question), ("assistant", refined), ("assistant", original))
    )
    return {"id": record["id"]} | {
        "sft-completion": {"prompt": question + "\n", "completion": refined},
        "sft-chat": {"messages": [user, chosen]},
        "orpo": {"prompt": question + "\n", "chosen": refined, "rejected": original},
        "orpo-chat": {"prompt": [user], "chosen": [chosen], "rejected": [rejected]},
    }[to]


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
@pytest.mark.parametrize("to", TARGETS)
def test_datasets_loads_what_is_exported(run, tmp_path, to, file_format):
    output = tmp_path / "out"
    assert call("export", run, "--to", to, "--output", output, "--file-format", file_format) == 0
    expected = {row_id: expected_row(record, to) for row_id, record in exported_records(run, to).items()}
    assert {row["id"]: row for row in load(output, file_format)} == expected


def test_an_export_counts_what_it_wrote_and_what_it_left_out(run, tmp_path, capsys):
    assert call("export", run, "--to", "orpo", "--output", tmp_path / "out") == 0
    num_unchanged = sum(record["status"] == "unchanged" for record in records(run).values())
    assert capsys.readouterr().out == (
        f"wrote {len(exported_records(run, 'orpo'))} rows to {tmp_path / 'out'}; "
        f"left out: 2 quarantined, {num_unchanged} unchanged\n"
    )


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_a_file_has_no_more_rows_than_asked_for(run, tmp_path, file_format):
    flags = ["--to", "sft-chat", "--file-format", file_format, "--rows-per-file", 16]
    assert call("export", run, "--output", tmp_path / "out", *flags) == 0
    assert {path.name: num_rows(path) for path in (tmp_path / "out").iterdir()} == {
        f"part-00000.{file_format}": 16,
        f"part-00001.{file_format}": 16,
        f"part-00002.{file_format}": 8,
    }


def num_rows(path):
    """The number of rows in a file."""
    return pq.read_metadata(path).num_rows if path.suffix == ".parquet" else len(path.read_text().splitlines())


def test_the_report_is_written_again_by_a_process_of_its_own(run):
    before = (run / "report.json").read_bytes()
    (run / "report.json").unlink()
    assert command("jobs.report", run).returncode == 0
    assert (run / "report.json").read_bytes() == before


def test_an_interrupted_export_is_done_again(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("_unfinished", "part-00000.parquet", "part-00001.jsonl"):
        (out / name).write_bytes(b"of an export that was killed")
    assert call("export", run, "--output", out) == 0
    assert [path.name for path in out.iterdir()] == ["part-00000.parquet"]
    assert num_rows(out / "part-00000.parquet") == len(exported_records(run, "sft-chat"))
    assert call("export", run, "--output", out) == 2, "the folder of a whole export is not empty"


def test_an_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    def full(self, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(UserError, match=r"cannot write --output .*No space left"):
        export.run(export.ExportConfig(run=str(run), output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


CHAT_TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


@pytest.mark.filterwarnings("default")  # trainers warn about much that is theirs
@pytest.mark.parametrize("to", TARGETS)
def test_trl_trains_two_steps_on_what_is_exported(run, tmp_path, byte_model, to):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert call("export", run, "--to", to, "--output", tmp_path / "out") == 0
    tokenizer = AutoTokenizer.from_pretrained(byte_model)
    tokenizer.pad_token, tokenizer.chat_template = tokenizer.eos_token, CHAT_TEMPLATE
    if to.startswith("orpo"):
        from trl.experimental.orpo import ORPOConfig as Config
        from trl.experimental.orpo import ORPOTrainer as Trainer
    else:
        from trl import SFTConfig as Config
        from trl import SFTTrainer as Trainer
    config = Config(output_dir=str(tmp_path / "trained"), max_steps=2, per_device_train_batch_size=2, max_length=2048,
                    use_cpu=True, bf16=False, report_to=[], logging_steps=1)  # fmt: skip
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(byte_model),
        args=config,
        train_dataset=load(tmp_path / "out"),
        processing_class=tokenizer,
    )
    outcome = trainer.train()
    assert outcome.global_step == 2
    assert 0 < outcome.training_loss < 100


def test_chats_get_their_turns_and_think_tags_back(tmp_path, ray_session):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    thoughts = ["There is 1.", "Now we go on.", "There are 2."]
    replies = [
        {"role": "assistant", "content": "<think>\n" + "\n\n".join(thoughts) + "\n</think>\n\nIt is 2."},
        {"role": "assistant", "content": "It is 2.", "reasoning_content": "\n\n".join(thoughts)},
        {"role": "assistant", "content": "\n\n".join(thoughts)},
    ]
    source = write_lines(tmp_path / "c.jsonl", [{"messages": [*turns, reply]} for reply in replies])
    assert refine_with_table(input=str(source), output=str(tmp_path / "run"), format="chat", t1=3.0, t2=3.0) == 0
    assert call("export", tmp_path / "run", "--output", tmp_path / "out") == 0
    found = records(tmp_path / "run")
    for row in pq.read_table(tmp_path / "out").to_pylist():
        refined = "\n\n".join(found[row["id"]]["refined_steps"])
        assert found[row["id"]]["status"] == "refined"
        whole = refined if row["id"].endswith(":2") else f"<think>\n{refined}\n</think>\n\nIt is 2."
        assert row["messages"] == [*turns, {"role": "assistant", "content": whole}]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nowhere --output out", "no run in nowhere"),
        ("RUN --output full", "is not empty"),
        ("RUN --output /proc/no/such", "cannot write --output"),
        ("RUN --output out --to dpo", "dpo"),
        ("unfinished --output out", "is not finished: repeat its command"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line_and_nothing_changes(
    run, tmp_path, monkeypatch, capsys, line, complaint
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("precious")
    manifest = json.loads((run / "manifest.json").read_text()) | {"status": "running"}
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "manifest.json").write_text(json.dumps(manifest))
    assert call("export", *(str(run) if part == "RUN" else part for part in line.split())) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith("export: error: ")
    assert complaint in error
    assert (tmp_path / "full" / "x").read_text() == "precious"
    assert not (tmp_path / "out").exists()
