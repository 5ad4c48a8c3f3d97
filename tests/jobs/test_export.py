"""Exported files are what trainers load: datasets reads them, TRL's SFT and ORPO trainers take two steps."""

import json

import pytest

from tests.fixtures.runs import command, records, refine_with_table, write_problems


@pytest.fixture(scope="module")
def run(tmp_path_factory, ray_session):
    """A finished run of 40 problems, two of them broken."""
    folder = tmp_path_factory.mktemp("export")
    source = write_problems(folder / "c.jsonl", 40)
    with source.open("a") as lines:
        lines.write('{"question": null}\nnonsense\n')
    assert refine_with_table(input=str(source), output=str(folder / "run")) == 0
    return folder / "run"


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
@pytest.mark.parametrize("to", ["sft-completion", "sft-chat", "orpo", "orpo-chat"])
def test_datasets_loads_what_is_exported(run, tmp_path, to, file_format):
    from datasets import load_dataset

    done = command("jobs.export", run, "--to", to, "--output", tmp_path / "out", "--file-format", file_format,
                   "--rows-per-file", 16)  # fmt: skip
    assert done.returncode == 0, done.stderr
    kind = "json" if file_format == "jsonl" else "parquet"
    loaded = load_dataset(kind, data_files=str(tmp_path / "out" / "*"), cache_dir=str(tmp_path / "cache"))["train"]
    found = records(run)
    leaving = {"refined"} if to.startswith("orpo") else {"refined", "unchanged"}
    expected = {row_id: row for row_id, row in found.items() if row["status"] in leaving}
    assert {row["id"] for row in loaded} == set(expected)
    assert f"wrote {len(expected)} rows" in done.stdout
    assert "2 quarantined" in done.stdout
    for row in loaded:
        record = expected[row["id"]]
        refined, original = "\n".join(record["refined_steps"]), "\n".join(record["steps"])
        user = [{"role": "user", "content": record["question"]}]
        if to == "sft-completion":
            assert (row["prompt"], row["completion"]) == (record["question"] + "\n", refined)
        elif to == "sft-chat":
            assert row["messages"] == [*user, {"role": "assistant", "content": refined}]
        elif to == "orpo":
            assert (row["prompt"], row["chosen"], row["rejected"]) == (record["question"] + "\n", refined, original)
        else:
            assert row["prompt"] == user
            assert row["chosen"] == [{"role": "assistant", "content": refined}]
            assert row["rejected"] == [{"role": "assistant", "content": original}]
    assert (tmp_path / "out" / f"part-00000.{file_format}").exists()


def test_the_report_is_written_again_by_a_process_of_its_own(run):
    before = (run / "report.json").read_bytes()
    (run / "report.json").unlink()
    assert command("jobs.report", run).returncode == 0
    assert (run / "report.json").read_bytes() == before


def test_an_interrupted_export_is_done_again(run, tmp_path):
    (tmp_path / "out" / "_unfinished").mkdir(parents=True)
    (tmp_path / "out" / "_unfinished" / "part-00000.parquet").write_bytes(b"half")
    assert command("jobs.export", run, "--output", tmp_path / "out").returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part-00000.parquet"]


CHAT_TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


@pytest.mark.filterwarnings("default")  # trainers warn about much that is theirs
@pytest.mark.parametrize("to", ["sft-completion", "sft-chat", "orpo", "orpo-chat"])
def test_trl_trains_two_steps_on_what_is_exported(run, tmp_path, byte_model, to):
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert command("jobs.export", run, "--to", to, "--output", tmp_path / "out").returncode == 0
    loaded = load_dataset("parquet", data_files=str(tmp_path / "out" / "*"), cache_dir=str(tmp_path / "cache"))["train"]
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
        train_dataset=loaded,
        processing_class=tokenizer,
    )
    outcome = trainer.train()
    assert outcome.global_step == 2
    assert 0 < outcome.training_loss < 100


def test_chats_get_their_turns_and_think_tags_back(tmp_path, ray_session):
    import pyarrow.parquet as pq

    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    thoughts = ["There is 1.", "Now we go on.", "There are 2."]
    replies = [
        {"role": "assistant", "content": "<think>\n" + "\n\n".join(thoughts) + "\n</think>\n\nIt is 2."},
        {"role": "assistant", "content": "It is 2.", "reasoning_content": "\n\n".join(thoughts)},
        {"role": "assistant", "content": "\n\n".join(thoughts)},
    ]
    source = tmp_path / "c.jsonl"
    source.write_text("\n".join(json.dumps({"messages": [*turns, reply]}) for reply in replies))
    assert refine_with_table(input=str(source), output=str(tmp_path / "run"), format="chat", t1=3.0, t2=3.0) == 0
    assert command("jobs.export", tmp_path / "run", "--output", tmp_path / "out").returncode == 0
    found = records(tmp_path / "run")
    for row in pq.read_table(tmp_path / "out").to_pylist():
        refined = "\n\n".join(found[row["id"]]["refined_steps"])
        assert found[row["id"]]["status"] == "refined"
        whole = refined if row["id"].endswith(":2") else f"<think>\n{refined}\n</think>\n\nIt is 2."
        assert row["messages"] == [*turns, {"role": "assistant", "content": whole}]


def test_what_cannot_be_exported_is_refused(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("precious")
    for args, complaint in [
        ([tmp_path / "nowhere", "--output", tmp_path / "out"], "no run in"),
        ([run, "--output", tmp_path / "full"], "is not empty"),
        ([run, "--output", "/proc/no/such"], "cannot write --output"),
        ([run, "--output", tmp_path / "out", "--to", "dpo"], "dpo"),
    ]:
        done = command("jobs.export", *args)
        assert done.returncode == 2, complaint
        assert complaint in done.stderr
        assert len(done.stderr.splitlines()) == 1
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    manifest = json.loads((run / "manifest.json").read_text()) | {"status": "running"}
    (unfinished / "manifest.json").write_text(json.dumps(manifest))
    done = command("jobs.export", unfinished, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "is not finished: repeat its command" in done.stderr
    assert (tmp_path / "full" / "x").read_text() == "precious"


def test_make_corpus_is_seeded(tmp_path):
    for name in ("a.jsonl", "b.jsonl", "c.parquet"):
        assert command("jobs.make_corpus", "--rows", 30, "--seed", 5, "--output", tmp_path / name).returncode == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    import pyarrow.parquet as pq

    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert pq.read_table(tmp_path / "c.parquet").to_pylist() == lines
    assert command("jobs.make_corpus", "--rows", 3, "--output", tmp_path / "x.csv").returncode == 2
