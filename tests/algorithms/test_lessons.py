"""Rows of every kind become lessons, and lessons examples; whatever does not has a reason."""

import pytest

from algorithms.lessons import UNUSED, Lesson, UnusedRow, contrasted, one_per_sample, place, problem_key, read_lessons
from algorithms.row_errors import RowError

GRADED = {
    "id": "p#0",
    "status": "right",
    "correct": True,
    "split": "train",
    "question": "1+1?",
    "rationale": "It is 2.",
}
REFINED = {
    "id": "r",
    "status": "refined",
    "question": "1+1?",
    "steps": ["One.", "And one.", "The answer is 2."],
    "refined_steps": ["One.", "The answer is 2."],
    "answer": "2",
    "joiner": "\n",
}


def test_a_graded_sample_is_a_lesson():
    assert read_lessons(GRADED, "x") == [Lesson("p#0", "1+1?", None, "It is 2.", True, "train")]
    assert read_lessons(GRADED | {"correct": False, "split": "validation"}, "x") == [
        Lesson("p#0", "1+1?", None, "It is 2.", False, "validation")
    ]


def test_a_sample_that_was_cut_is_known_as_one():
    [lesson] = read_lessons(GRADED | {"finish_reason": "length"}, "x")
    assert lesson == Lesson("p#0", "1+1?", None, "It is 2.", True, is_cut=True)
    assert not read_lessons(GRADED | {"finish_reason": "stop"}, "x")[0].is_cut


def test_a_refined_chain_is_right_and_the_original_its_rejected_partner():
    refined, original = "One.\nThe answer is 2.", "One.\nAnd one.\nThe answer is 2."
    assert read_lessons(REFINED, "x") == [Lesson("r", "1+1?", None, refined, True, rejected=original)]
    assert read_lessons(REFINED | {"status": "unchanged"}, "x") == [Lesson("r", "1+1?", None, refined, True)]


def test_an_answer_that_no_step_states_stands_at_the_end():
    [lesson] = read_lessons(REFINED | {"status": "unchanged", "refined_steps": ["One and one."]}, "x")
    assert lesson.text == "One and one.\n2"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Q\n", "completion": "A"}, [Lesson("x", "Q\n", "Q\n", "A", True)]),
        (
            {"id": 7, "prompt": "Q\n", "chosen": "A", "rejected": "B"},
            [Lesson("7", "Q\n", "Q\n", "A", True, rejected="B")],
        ),
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
            [Lesson("x", "Q", (("user", "Q"),), "A", True)],
        ),
        (
            {
                "prompt": [{"role": "user", "content": "Q"}],
                "chosen": [{"role": "assistant", "content": "A"}],
                "rejected": [{"role": "assistant", "content": "B"}],
            },
            [Lesson("x", "Q", (("user", "Q"),), "A", True, rejected="B")],
        ),
    ],
)
def test_exports_are_lessons(row, expected):
    assert read_lessons(row, "x") == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (RowError("invalid_json", "cut"), "invalid_json"),
        (RowError("invalid_utf8", "byte 3 of the line"), "invalid_utf8"),
        (None, "no_object"),
        ([1, 2], "no_object"),
        ({"text": "A"}, "no_columns"),
        (GRADED | {"status": "quarantined"}, "quarantined"),
        (GRADED | {"correct": None}, "not_graded"),
        (GRADED | {"correct": "true"}, "not_graded"),
        (GRADED | {"split": "held_out"}, "held_out"),
        (GRADED | {"rationale": None}, "not_text"),
        (GRADED | {"question": " "}, "empty"),
        (GRADED | {"rationale": "half of a pair: \ud800"}, "not_text"),
        (REFINED | {"refined_steps": None}, "not_text"),
        (REFINED | {"joiner": None}, "not_text"),
        ({name: value for name, value in REFINED.items() if name != "joiner"}, "no_columns"),
        (REFINED | {"status": "quarantined"}, "quarantined"),
        ({"prompt": "Q", "completion": ""}, "empty"),
        ({"prompt": 3, "completion": "A"}, "not_text"),
        ({"messages": []}, "not_text"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "not_text"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "A"}]}, "not_text"),
    ],
)
def test_a_row_without_a_lesson_says_why(row, reason):
    with pytest.raises(UnusedRow) as raised:
        read_lessons(row, "x")
    assert str(raised.value) == reason
    assert reason in UNUSED


RIGHTS = [Lesson(f"r{n}", "Q", None, f"right {n}", True) for n in range(2)]
WRONGS = [Lesson(f"w{n}", "Q", None, f"wrong {n}", False) for n in range(4)]


def test_single_views_choose_and_account_for_the_rest():
    examples, unused = one_per_sample(True)([*RIGHTS, *WRONGS], 0)
    assert [example.lessons for example in examples] == [(right,) for right in RIGHTS]
    assert unused == [(wrong, "not_asked_for") for wrong in WRONGS]
    assert len(one_per_sample(True, False)([*RIGHTS, *WRONGS], 0)[0]) == 6


def test_every_right_one_stands_against_wrong_ones_of_its_question():
    examples, unused = contrasted(2)([*RIGHTS, *WRONGS], 0)
    assert [example.id for example in examples] == ["r0", "r1"]
    for example in examples:
        assert [lesson.is_right for lesson in example.lessons] == [True, False, False]
    used = {lesson.id for example in examples for lesson in example.lessons}
    assert used | {lesson.id for lesson, _ in unused} == {lesson.id for lesson in [*RIGHTS, *WRONGS]}
    assert contrasted(2)([*reversed(WRONGS), *RIGHTS], 0)[0] == examples  # whatever order they come in
    assert contrasted(2)(WRONGS, 0) == ([], [(wrong, "no_partner") for wrong in WRONGS])


def test_a_pair_stays_a_pair_and_what_is_rejected_is_never_wrong():
    pairs = [Lesson(f"p{n}", "Q", None, f"chosen {n}", True, rejected=f"rejected {n}") for n in range(2)]
    for seed in range(4):
        examples, unused = contrasted(1, use_rejected=True)([*pairs, *WRONGS], seed)
        texts = [[lesson.text for lesson in example.lessons] for example in examples]
        assert texts == [["chosen 0", "rejected 0"], ["chosen 1", "rejected 1"]]
        assert [example.lessons[1].is_right for example in examples] == [False, False]
        assert unused == [(wrong, "not_asked_for") for wrong in WRONGS]
    assert one_per_sample(False)(pairs, 0)[0] == []
    assert contrasted(3)(pairs, 0) == ([], [(pair, "no_partner") for pair in pairs])


def test_conversations_are_about_the_same_question_only_if_all_that_was_said_is_the_same():
    def asked(*said):
        prompt = [{"role": "user", "content": each} for each in said]
        return read_lessons({"prompt": prompt, "completion": "A"}, "x")[0].question

    assert asked("What is 1+1?", "Go on.") != asked("What is 1+2?", "Go on.")
    assert asked("What is 1+1?") == "What is 1+1?"


def test_a_question_is_known_in_any_corpus_and_its_place_is_stable():
    assert problem_key("What  is\n1 + 1?") == problem_key("what is 1 + 1?") != problem_key("What is 1 + 2?")
    assert place(0, "a") == place(0, "a") != place(1, "a")
    assert 0 <= place(3, "é") < 2**63
