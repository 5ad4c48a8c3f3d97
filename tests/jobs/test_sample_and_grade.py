"""From questions to graded samples on Ray: every question gets one record, every sample one grade."""

import functools
import json
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algorithms.prompts import INSTRUCTION
from algorithms.sampling import sample_seed
from jobs import grade, sample
from jobs.driver import command as driver_command
from jobs.driver.command import UserError
from tests.conftest import DATA
from tests.fixtures.runs import ROOT, command, records, report
from tests.fixtures.table_engine import POISON, REFUSED, TableEngine, answer
from tests.jobs.test_refine import committed, kill_all, wait_for

pytestmark = pytest.mark.usefixtures("ray_session")
TEMPLATE = "Q: {question}\nA:"


def sample_with_table(seconds=0.0, **flags):
    config = sample.SampleConfig.model_validate({"num_samples": 3} | flags)
    return sample.run(config, functools.partial(TableEngine, seconds))


def grade_with(**flags):
    return grade.run(grade.GradeConfig.model_validate(flags))


def write_questions(path, count, **special):
    """`count` questions with gold answers; `special` maps r5 to another question of row 5."""
    with path.open("w") as lines:
        for number in range(count):
            question = special.get(f"r{number}", f"How many are {number}?")
            lines.write(json.dumps({"question": question, "answer": str(number % 5), "level": number % 3}) + "\n")
    return path


def test_every_question_gets_its_samples_and_every_sample_its_grade(tmp_path, capsys):
    questions = write_questions(tmp_path / "q.jsonl", 60, r7=f"This {REFUSED}", r9=None, r11=POISON)
    flags = {"input": str(questions), "output": str(tmp_path / "samples"), "seed": 5}
    assert sample_with_table(**flags) == 0
    found = records(tmp_path / "samples")
    assert set(found) == {f"q.jsonl:{number}" for number in range(60)}
    assert {row_id: record["reason"].split(":")[0] for row_id, record in found.items() if record["reason"]} == {
        "q.jsonl:7": "refused", "q.jsonl:9": "null_field", "q.jsonl:11": "kills_the_process",
    }  # fmt: skip
    for number in set(range(60)) - {7, 9, 11}:
        record = found[f"q.jsonl:{number}"]
        prompt = f"How many are {number}?\n\n{INSTRUCTION}"
        wanted = [answer(prompt, sample_seed(5, f"q.jsonl:{number}", index)) for index in range(3)]
        assert [each["text"] for each in record["samples"]] == [each.text for each in wanted]
        assert [each["mean_logprob"] for each in record["samples"]] == [each.mean_logprob for each in wanted]
        assert (record["num_samples"], record["num_tokens"]) == (3, 21)
        assert record["num_cut"] == sum(each.finish_reason == "length" for each in wanted)
        assert json.loads(record["source"]) == {"level": number % 3}
    facts = report(tmp_path / "samples")
    assert facts["rows"] == {"total": 60, "sampled": 57, "quarantined": 3}
    assert (facts["samples"], facts["tokens"]["total"]) == (171, 171 * 7)
    assert (tmp_path / "samples" / "report.html").read_text().count("<article>") == 6

    assert grade_with(input=str(tmp_path / "samples"), output=str(tmp_path / "graded")) == 0
    graded = records(tmp_path / "graded")
    assert Counter(record["status"] for record in graded.values())["quarantined"] == 3
    for number in set(range(60)) - {7, 9, 11}:
        for index, each in enumerate(found[f"q.jsonl:{number}"]["samples"]):
            record = graded[f"q.jsonl:{number}#{index}"]
            assert record["correct"] == (f"{{{number % 5}}}" in each["text"])
            assert (record["gold"], record["rationale"]) == (str(number % 5), each["text"])
            assert (record["mean_logprob"], record["finish_reason"]) == (each["mean_logprob"], each["finish_reason"])
            assert json.loads(record["source"]) == {"level": number % 3}
    facts = report(tmp_path / "graded")
    assert facts["samples"]["total"] == 171
    assert facts["quarantined_by_reason"] == {"not_sampled": 3}
    assert set(facts["by_level"]) == {"0", "1", "2"}
    assert sum(sum(counts.values()) for counts in facts["by_split"].values()) == 171
    out = capsys.readouterr().out
    assert "57 sampled, 3 quarantined" in out
    assert "171 of 60 problems" in out
    assert grade_with(input=str(tmp_path / "samples"), output=str(tmp_path / "graded")) == 0
    assert "finished already" in capsys.readouterr().out


def test_a_run_that_is_not_finished_is_not_graded(tmp_path):
    questions = write_questions(tmp_path / "q.jsonl", 5)
    assert sample_with_table(input=str(questions), output=str(tmp_path / "samples")) == 0
    manifest = tmp_path / "samples" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"'))
    with pytest.raises(UserError, match="is not finished"):
        grade_with(input=str(tmp_path / "samples"), output=str(tmp_path / "graded"))


def test_the_same_questions_in_other_company_get_the_same_splits(tmp_path):
    rows = [{"question": f"What is {n}?", "answer": str(n), "samples": [rf"\boxed{{{n}}}"]} for n in range(40)]
    for name, chosen in (("all", rows), ("some", rows[::3])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, chosen)))
        flags = {"input": str(tmp_path / f"{name}.jsonl"), "output": str(tmp_path / name), "splits": (0.5, 0.3, 0.2)}
        assert grade_with(**flags) == 0
    everywhere = {record["question"]: record["split"] for record in records(tmp_path / "all").values()}
    somewhere = {record["question"]: record["split"] for record in records(tmp_path / "some").values()}
    assert len(set(everywhere.values())) == 3
    assert somewhere == {question: everywhere[question] for question in somewhere}


def test_bad_samples_are_kept_with_their_reason(tmp_path):
    rows = [
        {"question": "null", "answer": "1", "samples": None},
        {"question": "empty", "answer": "1", "samples": []},
        {"question": "text", "answer": "1", "samples": "1"},
        {"question": "lists", "answer": "1", "samples": [[r"\boxed{1}"], None, {"a": 1}, 5, r"\boxed{1}"]},
        {"question": "no gold", "samples": [r"\boxed{1}"]},
        {"question": "broken gold", "answer": r"\frac{1}{", "samples": [r"\boxed{1}"]},
        {"answer": "1", "samples": [r"\boxed{1}"]},
        {"question": "foreign", "answer": 1e-7, "samples": [{"text": r"\boxed{0.0000001}", "num_tokens": "12"}]},
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert grade_with(input=str(tmp_path / "c.jsonl"), output=str(tmp_path / "graded")) == 0
    found = {row_id: (record["status"], record["reason"]) for row_id, record in records(tmp_path / "graded").items()}
    reasons = {row_id: reason and reason.split(":")[0] for row_id, (_, reason) in found.items()}
    assert reasons == {
        "c.jsonl:0": "null_field", "c.jsonl:1": "no_samples", "c.jsonl:2": "wrong_type",
        "c.jsonl:3#0": "no_text", "c.jsonl:3#1": "no_text", "c.jsonl:3#2": "no_text", "c.jsonl:3#3": "no_text",
        "c.jsonl:3#4": None, "c.jsonl:4#0": "no_gold", "c.jsonl:5#0": "unparsable_gold", "c.jsonl:6": "missing_field",
        "c.jsonl:7#0": None,
    }  # fmt: skip
    assert found["c.jsonl:3#4"][0] == found["c.jsonl:7#0"][0] == "right"


def test_real_corpora_are_graded_with_their_templates_stripped(tmp_path):
    tdg = DATA / "math_teacher" / "gpt-3.5-turbo.parquet"
    assert grade_with(input=str(tdg), format="tdg", limit=40, output=str(tmp_path / "tdg")) == 0
    found = records(tmp_path / "tdg").values()
    assert len(found) == 320
    assert not any(record["question"].startswith("Problem:") for record in found)
    assert not any(record["rationale"].startswith("Solution:") for record in found)
    facts = report(tmp_path / "tdg")
    assert facts["string_rule"]["only_strings"] == 0
    assert facts["samples"]["right"] > facts["string_rule"]["right"] > 80
    assert set(facts["by_level"]) <= {f"Level {number}" for number in range(1, 6)}

    solutions = DATA / "gsm8k" / "model_solutions.jsonl"
    assert grade_with(input=str(solutions), format="gsm8k-solutions", limit=60, output=str(tmp_path / "gsm8k")) == 0
    facts = report(tmp_path / "gsm8k")
    given = facts["given"]
    assert (given["flags"], given["contrary"]) == (240, 0)
    assert given["agreeing"] + given["unknown"] == 240
    assert given["agreement"] == given["agreeing"] / 240 > 0.99
    assert len(facts["by_origin"]) == 4


@pytest.mark.timeout(900)
def test_a_killed_run_of_the_real_engine_goes_on_to_the_same_samples(tmp_path, byte_model):
    questions = write_questions(tmp_path / "q.jsonl", 48, r5="x" * 5000)
    args = ["jobs.sample", "--input", questions, "--model", byte_model, "--template", TEMPLATE, "--num-samples", 2,
            "--max-tokens", 40, "--max-batch", 4, "--temperature", 1.0]  # fmt: skip
    whole = command(*args, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    resumed = [sys.executable, "-m", *map(str, args), "--output", str(tmp_path / "killed")]
    job = subprocess.Popen(resumed, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: committed(tmp_path / "killed"), job)
    kill_all(job)
    before = {path.name for path in committed(tmp_path / "killed")}
    assert 0 < len(records(tmp_path / "killed")) < 48
    again = command(*args, "--output", tmp_path / "killed")
    assert again.returncode == 0, again.stderr
    assert before < {path.name for path in committed(tmp_path / "killed")}
    one, other = records(tmp_path / "whole"), records(tmp_path / "killed")
    assert one["q.jsonl:5"]["reason"].startswith("too_long")
    assert {key: [each["text"] for each in row["samples"] or []] for key, row in one.items()} == {
        key: [each["text"] for each in row["samples"] or []] for key, row in other.items()
    }
    assert report(tmp_path / "killed")["sessions"] == 2


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--num-samples", "0"], "--num-samples 0: Input should be greater than or equal to 1"),
        (["--engine", "openai"], "--engine openai needs --url"),
        (["--url", "http://x/v1"], "--url does nothing with --engine transformers"),
        (["--tensor-parallel", "2"], "--tensor-parallel does nothing with --engine transformers: it is for vllm"),
        (["--engine", "openai", "--url", "http://u"], "--engine openai needs --model"),
        (
            ["--engine", "openai", "--url", "u", "--model", "m", "--dtype", "float16"],
            "--dtype does nothing with --engine openai",
        ),
        (["--template", TEMPLATE, "--instruction", "Think."], "--instruction does nothing with --template"),
        (["--engine", "vllm", "--tensor-parallel", "4"], "--tensor-parallel 4 needs --gpus-per-actor 4"),
        (["--engine", "vllm", "--gpus-per-actor", "0.5"], "--gpus-per-actor 0.5 with --engine vllm must be"),
        (["--top-p", "1.5"], "--top-p 1.5"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_one_line(flags, complaint):
    with pytest.raises(UserError) as error:
        driver_command.parse(sample.SampleConfig, ["--input", "i", "--output", "o", *flags], "")
    assert complaint in " ".join(str(error.value).split())


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"template": "no place for it"}, "has no {question} in it"),
        ({"few_shot": "/nowhere"}, "--few-shot /nowhere must hold JSON lines"),
        ({"model": "byte"}, "has no chat template"),
        (
            {"model": "byte", "template": TEMPLATE, "adapter": "/nowhere"},
            "--adapter: adapter folder '/nowhere' does not exist",
        ),
        ({"model": "byte", "template": TEMPLATE, "adapter": "other"}, "does not fit model"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_starts(tmp_path, byte_model, flags, complaint):
    if flags.get("adapter") == "other":
        flags = flags | {"adapter": str(adapter_of_another_base(tmp_path / "adapter"))}
    if flags.get("model") == "byte":
        flags = flags | {"model": byte_model}
    questions = write_questions(tmp_path / "q.jsonl", 3)
    config = sample.SampleConfig.model_validate({"input": str(questions), "output": str(tmp_path / "run")} | flags)
    with pytest.raises(UserError) as error:
        sample.run(config)
    assert complaint in str(error.value)
    assert not (tmp_path / "run").exists()


def adapter_of_another_base(folder):
    """A LoRA folder whose base has layers of another width."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(folder)
    return folder


def test_worked_examples_and_templates_make_the_prompt(tmp_path):
    (tmp_path / "shots.jsonl").write_text(json.dumps({"question": "1+1?", "solution": "It is 2."}))
    (tmp_path / "template.txt").write_text("Q: {question} {x}\nA:")
    given = {"input": "i", "output": "o", "few_shot": str(tmp_path / "shots.jsonl")}
    chat = sample.prompt_style(sample.SampleConfig.model_validate(given | {"instruction": ""})).prompt("2+2?")
    assert chat == (("user", "1+1?"), ("assistant", "It is 2."), ("user", "2+2?"))
    text = sample.prompt_style(sample.SampleConfig.model_validate(given | {"template": str(tmp_path / "template.txt")}))
    assert text.prompt("2+2?") == "Q: 1+1? {x}\nA:It is 2.\n\nQ: 2+2? {x}\nA:"


def test_a_corpus_in_parquet_with_nulls_in_its_lists(tmp_path):
    table = pa.table({"question": ["a"], "answer": ["1"], "samples": [[r"\boxed{1}", None]]})
    pq.write_table(table, tmp_path / "c.parquet")
    assert grade_with(input=str(tmp_path / "c.parquet"), output=str(tmp_path / "graded")) == 0
    assert [row["status"] for row in records(tmp_path / "graded").values()] == ["right", "unknown"]
