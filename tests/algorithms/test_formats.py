import pickle

import pytest

from algorithms.answers.extraction import last_boxed
from algorithms.chains import Chain
from algorithms.formats import FORMATS, parse_record, source_json
from algorithms.row_errors import REASONS, RowError


def read(record, format_name, columns=None, split=None):
    return parse_record(record, format_name, columns or {}, split)


def test_steps():
    record = {"question": " q ", "steps": ["a", "", "b"], "answer": "b"}
    assert read(record, "steps") == Chain("q", ("a", "", "b"), "b")


def test_gsm8k_drops_annotations_and_keeps_the_answer_line_as_a_step():
    record = {"question": "q", "answer": "It is 48/2 = <<48/2=24>>24.\n\n#### 1,024"}
    assert read(record, "gsm8k") == Chain("q", ("It is 48/2 = 24.", "#### 1,024"), "1,024")


def test_math_takes_the_last_balanced_box():
    record = {"problem": "q", "solution": r"First \boxed{1}. Then \boxed{\frac{1}{2}}."}
    assert read(record, "math") == Chain("q", (r"First \boxed{1}.", r"Then \boxed{\frac{1}{2}}."), r"\frac{1}{2}", " ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [(r"\boxed{a{b}c}", "a{b}c"), (r"\boxed 2.", "2"), (r"$\boxed 9$", "9"), ("none", None), (r"\boxed{1", None),
     (r"\boxed{}", None)],
)  # fmt: skip
def test_last_boxed(text, expected):
    assert last_boxed(text) == expected


def test_chat_with_thoughts_refines_the_thoughts():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "<think>Two.\n\nTwo more.</think> It is 4."},
    ]
    assert read({"messages": messages}, "chat") == Chain("Be brief.\n\n2+2?", ("Two.", "Two more."), "It is 4.", "\n\n")
    messages[-1] = {"role": "assistant", "reasoning_content": "a\nb", "content": "4"}
    assert read({"messages": messages}, "chat", split="newline") == Chain("Be brief.\n\n2+2?", ("a", "b"), "4")


def test_chat_reads_other_spellings_and_content_parts():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": r"a" "\n\n" r"\boxed{3}"}]
    assert read({"conversations": turns}, "chat", {"messages": "conversations"}).answer == "3"
    parts = [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "a"}]
    assert read({"messages": parts}, "chat") == Chain("q", ("a",), "", "\n\n")


def test_text_may_have_no_answer_and_splits_as_told():
    assert read({"question": "q", "text": "It is 3. So be it."}, "text", split="sentence") == Chain(
        "q", ("It is 3.", "So be it."), "", " "
    )
    assert read({"question": "q", "text": "a\nb", "answer": "b"}, "text") == Chain("q", ("a", "b"), "b")


STEPS = {"question": "q", "steps": ["a", "b"], "answer": "b"}


@pytest.mark.parametrize(
    ("record", "format_name", "reason"),
    [
        (["not", "an", "object"], "steps", "wrong_type"),
        (None, "steps", "wrong_type"),
        ({"question": "q", "steps": ["a"]}, "steps", "missing_field"),
        (STEPS | {"answer": None}, "steps", "null_field"),
        (STEPS | {"answer": "  "}, "steps", "empty_field"),
        (STEPS | {"answer": 7}, "steps", "wrong_type"),
        (STEPS | {"question": {"a": [1]}}, "steps", "wrong_type"),
        (STEPS | {"steps": "a\nb"}, "steps", "wrong_type"),
        (STEPS | {"steps": ["a", 3]}, "steps", "wrong_type"),
        (STEPS | {"steps": ["a", None]}, "steps", "null_field"),
        (STEPS | {"steps": ["a", b"\xff"]}, "steps", "invalid_utf8"),
        (STEPS | {"steps": []}, "steps", "no_steps"),
        (STEPS | {"steps": ["", " "]}, "steps", "no_steps"),
        (STEPS | {"question": "\ud800"}, "steps", "invalid_unicode"),
        (STEPS | {"steps": ["a", "\udfff"]}, "steps", "invalid_unicode"),
        ({"question": "q", "answer": "no final line"}, "gsm8k", "no_answer"),
        ({"problem": "q", "solution": "no box"}, "math", "no_answer"),
        ({"messages": []}, "chat", "no_steps"),
        ({"messages": [{"role": "user", "content": "q"}]}, "chat", "no_steps"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "chat", "empty_field"),
        ({"messages": ["q", "a"]}, "chat", "wrong_type"),
        ({"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "a"}]}, "chat", "wrong_type"),
    ],
)
def test_a_record_that_is_no_chain_says_why(record, format_name, reason):
    with pytest.raises(RowError) as error:
        read(record, format_name)
    assert error.value.reason == reason


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(RowError("too_long", "9 tokens")))
    assert (error.reason, error.detail, str(error)) == ("too_long", "9 tokens", "too_long: 9 tokens")


def test_source_holds_all_other_columns():
    record = {"question": "q", "level": 3, "tags": ["x"], "raw": b"\xffa"}
    assert source_json(record, {"question"}) == '{"level": 3, "tags": ["x"], "raw": "\\\\xffa"}'


def test_every_format_names_what_it_reads():
    assert set(FORMATS) == {
        "steps", "gsm8k", "math", "chat", "text", "questions", "tdg", "samples", "gsm8k-solutions", "lm-eval", "graded",
    }  # fmt: skip
    assert all(" " not in reason for reason in REASONS)


def lm_eval_record(**changes):
    return {
        "doc_id": 0,
        "doc": {"question": "What is 2+3?", "level": "Level 1"},
        "target": "2+3=5\n#### 5",
        "arguments": {"gen_args_0": {"arg_0": "Q: What is 2+3?\nA:", "arg_1": {}}},
        "resps": [["2+3=5. The answer is 5.", "It is 6."]],
        "exact_match": 1.0,
    } | changes


def test_logs_of_lm_eval_give_question_gold_answer_and_all_repeats():
    problem = read(lm_eval_record(), "lm-eval")
    assert (problem.question, problem.answer, problem.last_number) == ("What is 2+3?", "5", True)
    assert [sample.text for sample in problem.samples] == ["2+3=5. The answer is 5.", "It is 6."]
    assert [sample.given_correct for sample in problem.samples] == [None, None]  # one verdict for two responses


def test_logs_of_lm_eval_may_lack_a_question_and_hold_short_targets():
    record = lm_eval_record(doc={"x": 1}, target=3, resps=[["3"]], arguments=[["Say 3.", {}]])
    problem = read(record, "lm-eval")
    assert (problem.question, problem.answer) == ("Say 3.", "3")
    assert problem.samples[0].given_correct is True
    assert read(lm_eval_record(target="\\frac{1}{2}"), "lm-eval").answer == "\\frac{1}{2}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"doc": None, "arguments": None}, "null_field"),
        ({"target": None}, "null_field"),
        ({"resps": []}, "no_samples"),
        ({"resps": "text"}, "wrong_type"),
    ],
)
def test_broken_logs_of_lm_eval_are_quarantined(changes, reason):
    with pytest.raises(RowError) as error:
        read(lm_eval_record(**changes), "lm-eval")
    assert error.value.reason == reason
