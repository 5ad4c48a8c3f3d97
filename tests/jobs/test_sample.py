"""From questions to samples on Ray: every question gets one record, with all its samples or the reason why not."""

import asyncio
import functools
import json
import multiprocessing
import shlex

import pyarrow as pa
import pytest

from actors.errors import UserError
from actors.runs.corpus import PROBLEM_SCHEMA
from actors.runs.folder import open_run_folder
from actors.runs.session import begin_session
from actors.runs.worker import RowWorker
from actors.sampler import Sampler
from algorithms.prompts import INSTRUCTION, PromptStyle
from algorithms.sampling import SamplingParams, sample_seed
from jobs import sample
from jobs.driver.command import parse
from jobs.driver.prompts import prompt_style
from tests.fixtures.rows import problem_row
from tests.fixtures.runs import reasons, records, report, sample_with_table, write_lines, write_questions
from tests.fixtures.table_engine import KILLS_ENGINE, POISON, REFUSED, TableEngine, answer

pytestmark = pytest.mark.usefixtures("ray_session")
TEMPLATE = "Q: {question}\nA:"
GOOD = [number for number in range(60) if number not in (7, 9, 11)]


@pytest.fixture(scope="module")
def sampled(ray_session, tmp_path_factory):
    """A run over 60 questions, three of which cannot be answered."""
    folder = tmp_path_factory.mktemp("sampled")
    questions = write_questions(folder / "q.jsonl", 60, {7: f"This {REFUSED}", 9: None, 11: POISON})
    assert sample_with_table(input=str(questions), output=str(folder / "run"), seed=5) == 0
    return folder / "run"


def test_every_question_gets_one_record(sampled):
    assert set(records(sampled)) == {f"q.jsonl:{number}" for number in range(60)}


def test_each_sample_is_drawn_with_its_own_seed(sampled):
    found = records(sampled)
    for number in GOOD:
        prompt = f"How many are {number}?\n\n{INSTRUCTION}"
        wanted = [answer(prompt, sample_seed(5, f"q.jsonl:{number}", index)) for index in range(3)]
        samples = found[f"q.jsonl:{number}"]["samples"]
        assert [(each["text"], each["mean_logprob"], each["finish_reason"]) for each in samples] == [
            (each.text, each.mean_logprob, each.finish_reason) for each in wanted
        ]


def test_a_record_counts_its_samples_and_keeps_the_other_columns(sampled):
    found = records(sampled)
    for number in GOOD:
        record = found[f"q.jsonl:{number}"]
        assert (record["num_samples"], record["num_tokens"]) == (3, 21)
        assert record["num_cut"] == sum(each["finish_reason"] == "length" for each in record["samples"])
        assert json.loads(record["source"]) == {"level": number % 3}


def test_a_question_that_cannot_be_answered_is_quarantined_with_its_reason(sampled):
    assert reasons(sampled) == {"q.jsonl:7": "refused", "q.jsonl:9": "null_field", "q.jsonl:11": "kills_the_process"}


def test_the_report_has_totals_and_examples(sampled):
    facts = report(sampled)
    assert facts["rows"] == {"total": 60, "sampled": 57, "quarantined": 3}
    assert (facts["samples"], facts["tokens"]["total"]) == (171, 171 * 7)
    assert (sampled / "report.html").read_text().count("<article>") == 6


def test_a_finished_run_only_prints_its_summary(sampled, capsys):
    assert sample_with_table(input=str(sampled.parent / "q.jsonl"), output=str(sampled), seed=5) == 0
    printed = capsys.readouterr().out
    assert "is already finished" in printed
    assert "57 sampled, 3 quarantined" in printed


@pytest.fixture(scope="module")
def poisoned(ray_session, tmp_path_factory):
    """A run over 20 questions, one of which kills the engine each time; `log` beside it has a file for each process."""
    folder = tmp_path_factory.mktemp("poisoned")
    (folder / "log").mkdir()
    questions = write_questions(folder / "q.jsonl", 20, {4: KILLS_ENGINE})
    config = sample.SampleConfig(input=str(questions), output=str(folder / "run"), num_samples=3)
    assert sample.run(config, functools.partial(TableEngine, log=str(folder / "log"))) == 0
    return folder / "run"


def test_a_question_that_kills_the_engine_is_quarantined_alone(poisoned):
    assert reasons(poisoned) == {"q.jsonl:4": "kills_the_process"}


def test_the_questions_beside_one_that_kills_the_engine_are_all_sampled(poisoned):
    found = records(poisoned)
    assert {row_id for row_id, record in found.items() if record["status"] == "sampled"} == {
        f"q.jsonl:{number}" for number in range(20) if number != 4
    }
    assert report(poisoned)["samples"] == 19 * 3


def test_ray_starts_another_process_after_each_death_of_the_engine(poisoned):
    # The first process dies with all questions in flight. Only a death alone convicts, so a second one dies as well.
    assert len(list((poisoned.parent / "log").iterdir())) >= 3


def sample_with_a_dying_engine(folder):
    """What a worker does, in a process of its own: the first question is answered, the second kills the engine."""
    run = open_run_folder(str(folder))
    begin_session(run, "s")
    sampler = RowWorker(Sampler, TableEngine, PromptStyle(TEMPLATE), SamplingParams(), 3, run, "s")
    rows = [problem_row(1, "1", []), problem_row(2, "1", [], question=KILLS_ENGINE)]
    asyncio.run(sampler(pa.Table.from_pylist(rows, schema=PROBLEM_SCHEMA)))


def test_the_death_of_the_engine_ends_the_process_of_its_worker_with_status_70(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=sample_with_a_dying_engine, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == 70


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--num-samples 0", "--num-samples 0: Input should be greater than or equal to 1"),
        ("--engine openai", "--engine openai needs --url"),
        ("--engine openai --url http://u", "--engine openai needs --model"),
        ("--engine magic", "must be one of transformers, vllm, openai"),
        ("--url http://x/v1", "--url does nothing with --engine transformers"),
        ("--max-model-len 9", "--max-model-len does nothing with --engine transformers"),
        ("--engine openai --url u --model m --dtype float16", "--dtype does nothing with --engine openai"),
        (f"--template {TEMPLATE!r} --instruction Think.", "--instruction does nothing with --template"),
        ("--gpus-per-actor 2", "--gpus-per-actor 2: --engine transformers computes on one GPU"),
        ("--engine vllm --gpus-per-actor 1.5", "--gpus-per-actor 1.5: vLLM needs whole GPUs, or a fraction of one"),
        ("--top-p 1.5", "--top-p 1.5"),
    ],
)
def test_flags_that_do_not_fit_are_refused_in_one_line(flags, complaint):
    with pytest.raises(UserError) as error:
        parse(sample.SampleConfig, ["--input", "i", "--output", "o", *shlex.split(flags)], "")
    assert complaint in " ".join(str(error.value).split())


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"template": "no place for it"}, "has no {question} in it"),
        ({"few_shot": "/nowhere"}, "--few-shot /nowhere must hold JSON lines"),
        ({"model": "byte"}, "has no chat template"),
        (
            {"model": "byte", "template": TEMPLATE, "adapter": "/nowhere"},
            "adapter folder '/nowhere' does not exist",
        ),
        ({"model": "byte", "template": TEMPLATE, "adapter": "other"}, "does not fit model"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_starts(tmp_path, byte_model, flags, complaint):
    given = {"byte": byte_model, "other": str(tmp_path / "adapter")}
    if flags.get("adapter") == "other":
        save_adapter_of_another_base(tmp_path / "adapter")
    flags = {name: given.get(value, value) for name, value in flags.items()}
    questions = write_questions(tmp_path / "q.jsonl", 3)
    config = sample.SampleConfig.model_validate({"input": str(questions), "output": str(tmp_path / "run")} | flags)
    with pytest.raises(UserError) as error:
        sample.run(config)
    assert complaint in str(error.value)
    assert not (tmp_path / "run").exists()


def save_adapter_of_another_base(folder):
    """A LoRA whose base has layers of another width."""
    from peft import LoraConfig, get_peft_model  # here: each process that a test spawns imports this file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(folder)


def test_worked_examples_become_turns_of_a_chat(tmp_path):
    shots = write_lines(tmp_path / "shots.jsonl", [{"question": "1+1?", "solution": "It is 2."}])
    style = prompt_style(None, "", str(shots))
    assert style.prompt("2+2?") == (("user", "1+1?"), ("assistant", "It is 2."), ("user", "2+2?"))


def test_worked_examples_are_written_with_the_template_of_a_file(tmp_path):
    shots = write_lines(tmp_path / "shots.jsonl", [{"question": "1+1?", "solution": "It is 2."}])
    (tmp_path / "template.txt").write_text("Q: {question} {x}\nA:")
    style = prompt_style(str(tmp_path / "template.txt"), INSTRUCTION, str(shots))
    assert style.prompt("2+2?") == "Q: 1+1? {x}\nA:It is 2.\n\nQ: 2+2? {x}\nA:"
