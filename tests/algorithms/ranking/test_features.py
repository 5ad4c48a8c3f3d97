"""What a ranker knows of a solution."""

import numpy as np
import pytest

from algorithms.ranking.answer_form import answer_facts, asked_facts, kind_of, value_of
from algorithms.ranking.features import GROUPS, feature_matrix, feature_names
from algorithms.ranking.solutions import Solution
from algorithms.ranking.text_shape import text_facts


@pytest.mark.parametrize(
    ("answer", "kind", "value"),
    [
        (None, "none", None), ("", "none", None), ("12", "integer", 12), ("-1,234", "integer", -1234),
        ("2.50", "decimal", 2.5), (r"\frac{3}{4}", "fraction", 0.75), ("-3/4", "fraction", -0.75),
        (r"\frac{3}{0}", "fraction", None), (r"30\%", "percent", 30), (r"\$5", "money", 5), ("(1, 2)", "pair", None),
        ("[1, 2)", "interval", None), ("x = 3", "equation", None), ("3x + 1", "polynomial", None),
        (r"2\sqrt{3}", "root", None), (r"4\pi", "pi", None), (r"\text{Tuesday}", "words", None),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "matrix", None), (r"90^\circ", "integer", 90),
    ],
)  # fmt: skip
def test_kind_and_value_of_an_answer(answer, kind, value):
    assert (kind_of(answer), value_of(answer)) == (kind, value)


@pytest.mark.parametrize(
    ("question", "answer", "misfit"),
    [
        ("How many books are there?", r"\frac{7}{2}", "misfits_count"),
        ("What is the probability that it rains?", "3", "misfits_share"),
        ("What is the remainder when $2^9$ is divided by 7?", "8", "misfits_remainder"),
        ("What is the units digit of $7^5$?", "17", "misfits_digit"),
        ("Express it as a common fraction.", "0.5", "misfits_fraction"),
        ("What is the smallest positive value?", "-2", "misfits_positive"),
    ],
)
def test_an_answer_that_cannot_be_what_is_asked_for(question, answer, misfit):
    facts = answer_facts(question, "", answer)
    assert {name for name, value in facts.items() if name.startswith("misfits_") and value == 1} == {misfit}


def test_an_answer_that_fits_has_no_misfit():
    facts = answer_facts("How many positive integers leave the remainder 2 when divided by 7?", r"\boxed{6}", "6")
    assert not any(value == 1 for name, value in facts.items() if name.startswith("misfits_"))


def test_a_question_asks_for_several_things():
    facts = asked_facts("Find the smallest positive integer. Express it in base 5.")
    assert {name for name, value in facts.items() if value} == {
        "asks_integer", "asks_positive", "asks_base", "asks_smallest",
    }  # fmt: skip


def test_features_are_numbers_by_name_whatever_the_text():
    solutions = [
        Solution("What is $1+1$?", "So $1+1=3$. However, wait.\nSo $1+1=3$. However, wait.", "3"),
        Solution("", "", None),
        Solution("\x00", "9^{9^{9^9}} = " * 2000, "9^{9^{9^9}}"),
        Solution("?", "(" * 5000 + "1" + ")" * 5000, "(" * 5000),
    ]
    matrix, names = feature_matrix(solutions), feature_names()
    assert matrix.shape == (4, len(names))
    assert len(set(names)) == len(names)
    assert not np.isinf(matrix).any()
    first = dict(zip(names, matrix[0].tolist(), strict=True))
    assert first["checks.claims_false"] == 2
    assert (first["text.repeated_lines"], first["text.num_doubts"], first["text.num_conclusions"]) == (0.5, 4, 2)
    assert feature_matrix([], ["text"]).shape == (0, len(feature_names(["text"])))


def test_no_feature_sees_another_sample():
    solutions = [Solution("What is $1+1$?", f"It is $1+1={n}$.", str(n)) for n in range(4)]
    alone = np.concatenate([feature_matrix([each]) for each in solutions])
    assert np.array_equal(alone, feature_matrix(solutions), equal_nan=True)
    assert set(GROUPS) == {"checks", "answer", "asked", "text"}


def test_text_facts_of_no_text():
    facts = text_facts("", "")
    assert facts["num_lines"] == facts["log_length"] == 0
