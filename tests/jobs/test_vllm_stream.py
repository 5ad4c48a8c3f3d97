"""What stands before and behind the vLLM engines, which CI does not install: requests, samples, questions."""

import json

import pyarrow as pa
import pytest

from actors.corpus import PROBLEM_SCHEMA
from actors.ledger import SESSION_FILE
from actors.models import end_ids
from actors.records import RecordStore
from actors.storage import open_storage
from algorithms.prompts import PromptStyle
from algorithms.sampling import SamplingParams, sample_seed
from jobs.driver.vllm_stream import Gatherer, Requests, Tally, VllmEngine, _Postprocess, _Preprocess
from tests.jobs.runs import records

PARAMS = SamplingParams(num_samples=2, max_tokens=4, stop=("\n",), seed=3)


@pytest.fixture
def engine(byte_model):
    style = PromptStyle(template="Q: {question}\nA:")
    return VllmEngine(byte_model, None, PARAMS, style, {"max_model_len": 64}, end_ids(byte_model), 64, is_seeded=True)


def row(number, **values):
    return {"id": f"r{number}", "shard": "0000000-0000000", "reason": None, "source": "{}", "question": f"q{number}",
            "answer": "1", "samples": [], "last_number": False} | values  # fmt: skip


def table(*rows):
    return pa.Table.from_pylist(list(rows), schema=PROBLEM_SCHEMA)


@pytest.mark.usefixtures("ray_session")
def test_rows_become_requests_and_what_is_none_is_committed_at_once(tmp_path, engine):
    import ray

    run = open_storage(str(tmp_path))
    (tmp_path / SESSION_FILE).write_text("s")
    tally = ray.remote(Tally).options(num_cpus=0).remote()
    rows = [row(1), row(2, reason="no_steps: x"), row(3, question="x" * 100), row(4)]
    for _ in range(2):  # whoever does the block again changes nothing
        made = Requests(engine, run, "s", tally)(table(*rows)).to_pylist()
        assert [(json.loads(each["row"])["id"], each["index"]) for each in made] == [
            ("r1", 0), ("r1", 1), ("r4", 0), ("r4", 1),
        ]  # fmt: skip
        assert [each["seed"] for each in made[:2]] == [sample_seed(3, "r1", 0), sample_seed(3, "r1", 1)]
        assert bytes_of(made[0]["prompt_ids"], engine) == "Q: q1\nA:"
    assert ray.get(tally.total.remote()) == 4
    found = records(tmp_path)
    assert {row_id: record["reason"].split(":")[0] for row_id, record in found.items()} == {
        "r2": "no_steps", "r3": "too_long",
    }  # fmt: skip


def bytes_of(ids, engine):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(engine.model).decode(ids)


def test_a_request_and_its_answer_in_the_words_of_the_stage(engine):
    request = {"row": "{}", "shard": "s", "index": 1, "seed": 9, "prompt_ids": [1, 2]}
    asked = _Preprocess(engine)(request)
    assert asked["tokenized_prompt"] == [1, 2]
    assert asked["model"] == engine.model
    assert asked["sampling_params"] == {
        "temperature": 0.7, "top_p": 1.0, "max_tokens": 4, "stop": ["\n"], "seed": 9, "logprobs": 0,
    }  # fmt: skip
    end = min(engine.end_ids)
    for tokens, reason in (([7, 8], "stop"), ([7, 8, 9, 9], "length"), ([7, 8, 9, end], "stop")):
        logprobs = [{token: {"logprob": -1.0 - place}} for place, token in enumerate(tokens)]
        answered = asked | {"generated_tokens": tokens, "generated_text": "t", "num_input_tokens": 2,
                            "logprobs": logprobs}  # fmt: skip
        mean = -1.0 - (len(tokens) - 1) / 2
        assert _Postprocess(engine)(answered) == {
            "row": "{}", "shard": "s", "index": 1, "text": "t", "num_tokens": len(tokens), "finish_reason": reason,
            "mean_logprob": mean,
        }  # fmt: skip


def sampled(row_id, index, error=""):
    given = json.dumps({"id": row_id, "question": "q", "answer": "1", "source": "{}"})
    return {"row": given, "shard": "0000000-0000000", "index": index, "text": f"{row_id}{index}", "num_tokens": 2,
            "finish_reason": "stop", "mean_logprob": -1.0, "error": error}  # fmt: skip


def test_samples_in_any_order_become_whole_questions(tmp_path):
    (tmp_path / SESSION_FILE).write_text("s")
    (tmp_path / "rows").mkdir()
    gatherer = Gatherer(open_storage(str(tmp_path)), "s", PARAMS)
    for each in (sampled("a", 1), sampled("b", 0), sampled("c", 1, "boom"), sampled("a", 0), sampled("c", 0)):
        gatherer.add(each)
    gatherer.commit(at_once=True)
    found = records(tmp_path)
    assert set(found) == {"a", "c"}
    assert [each["text"] for each in found["a"]["samples"]] == ["a0", "a1"]
    assert found["c"]["reason"] == "engine_error: boom"
    with pytest.raises(RuntimeError, match="1 questions lack samples, the first is b"):
        gatherer.check_complete()
    gatherer.add(sampled("a", 1))  # its block is done again
    gatherer.add(sampled("b", 1))
    gatherer.check_complete()
    gatherer.commit(at_once=True)
    assert RecordStore(open_storage(str(tmp_path / "rows"))).totals().num_rows == 3
