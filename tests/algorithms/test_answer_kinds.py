"""The kinds of answers that a vote can be about."""

import pytest

from algorithms.answers.kinds import KINDS


def read(kind, text, argument=None):
    return KINDS[kind].read(text, argument)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So it is \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("<think>\\boxed{1}</think> It is \\boxed{2}", "2"),
        ("I do not know, 7 is nice.", None),
        ("\\boxed{}", None),
        ("", None),
    ],
)
def test_mathematics(text, answer):
    assert read("mathematics", text) == answer


def test_a_number_may_be_the_last_one():
    assert read("number", "I do not know, 7 is nice.") == "7"
    assert read("number", "no digits") is None
    assert KINDS["number"].equal("1/2", "0.5")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is (B).", "B"),
        ("The answer is C", "C"),
        ("So \\boxed{D}", "D"),
        ("So \\boxed{\\text{(A)}}", "A"),
        ("(A) is wrong, so it must be (C) after all", "C"),
        ("Option b is right", "B"),
        ("b", "B"),
        ("(C)", "C"),
        ("<think>(A)</think>The answer is (B)", "B"),
        ("nothing fits", None),
        ("", None),
        ("A tree is green.", None),
    ],
)
def test_choice(text, answer):
    assert read("choice", text) == answer


def test_text():
    assert read("text", "Thinking...\nAnswer: Paris.") == "Paris."
    assert read("text", "  Paris ") == "Paris"
    assert read("text", " \n") is None
    assert KINDS["text"].equal("Paris.", "  paris")
    assert not KINDS["text"].equal("Paris", "Rome")


@pytest.mark.parametrize(
    ("text", "field", "answer"),
    [
        ('Here: ```json\n{"value": 2.0}\n```', "value", "2"),
        ('{"value": 1} then {"value": 2}', "value", "2"),
        ('{"a": {"b": [1, {"c": "x"}]}}', "a.b.1.c", '"x"'),
        ('{"a": {"y": 1, "x": 2.0}}', "a", '{"x": 2, "y": 1}'),
        ('{"value": true}', "value", "true"),
        ('{"value": null}', "value", "null"),
        ('{"other": 1}', "value", None),
        ('{"value": ', "value", None),
        ('<think>{"value": 3}</think> none', "value", None),
        ("{" * 5000, "value", None),
        ('{"value": [1]}', "value.7", None),
    ],
)
def test_json(text, field, answer):
    assert read("json", text, field) == answer


def test_json_tells_true_from_one():
    one, true = read("json", '{"v": 1}', "v"), read("json", '{"v": true}', "v")
    assert not KINDS["json"].equal(one, true)
    assert KINDS["json"].equal(one, read("json", '{"v": 1.0}', "v"))
