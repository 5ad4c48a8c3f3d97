"""What later steps use of a step, on sentences as people and models write them."""

import pytest

from algorithms.refinement.dependence import is_used_later, numbers_of, read_facts

QUESTION = "Amara has 12 marbles and finds 5 more. She gives 3 to Ben. How many marbles does Amara have now?"


@pytest.mark.parametrize(
    ("steps", "index", "is_used"),
    [
        # The result of a calculation that the next step goes on with.
        (("She has 12 + 5 = 17 marbles.", "Then 17 - 3 = 14 are left.", "The answer is 14."), 0, True),
        (("She has 12 + 5 = 17 marbles.", "Then 17 - 3 = 14 are left.", "The answer is 14."), 1, True),
        # A check inverts what was calculated, or repeats it.
        (("12 + 5 = 17.", "Indeed, 17 - 5 = 12.", "17 - 3 = 14.", "The answer is 14."), 1, False),
        (("12 + 5 = 17.", "Again, 12 + 5 = 17.", "17 - 3 = 14.", "The answer is 14."), 1, False),
        (("12 + 5 = 17.", "Again, 12 + 5 = 17.", "17 - 3 = 14.", "The answer is 14."), 0, True),
        # Words without news.
        (("Let us begin.", "12 + 5 = 17.", "17 - 3 = 14.", "The answer is 14."), 0, False),
        (("Amara has 12 marbles.", "12 + 5 = 17.", "17 - 3 = 14."), 0, False),
        (("12 + 5 = 17.", "So now there are 17 marbles.", "17 - 3 = 14."), 1, False),
        # A detour: nobody needs its result.
        (("12 * 3 = 36, but that does not help.", "12 + 5 = 17.", "17 - 3 = 14."), 0, False),
        # A number that is only announced, and calculated where it is used.
        (("The sum is 17.", "12 + 5 = 17 and 17 - 3 = 14."), 0, False),
        # The same number for two things.
        (("Amara has 2 * 6 = 12 marbles.", "Ben has 12 * 1 = 12.", "12 + 12 = 24."), 0, True),
        # The question's own number, calculated as something else.
        (("One box holds 36 / 3 = 12 marbles.", "12 * 2 = 24.", "The answer is 24."), 0, True),
        # Names, symbols and expressions.
        (("Let n be the number of marbles.", "Then n = 17.", "The answer is 17."), 0, True),
        (("Call her friend Dora.", "Dora has 3.", "The answer is 3."), 0, True),
        (("Ben then has x + 3 marbles.", "We solve x + 3 = 9.", "The answer is 6."), 0, True),
        # TeX, units, thousands, number words.
        ((r"\frac{12}{5} = 2.4", r"2.4 \cdot 5 = 12"), 0, True),
        (("12 marbles + 5 marbles = 1,017", "1017 - 3 = 1014"), 0, True),
        (("The half is six.", "6 + 1 = 7."), 0, True),
        (("He drives 8 hours x 4 miles/hour = 32 miles.", "32 * 2 = 64."), 0, True),
    ],
)
def test_a_step_is_used_if_it_first_states_what_a_later_one_needs(steps, index, is_used):
    assert is_used_later(QUESTION, steps, index) is is_used


def test_a_repeated_calculation_of_something_else_is_news():
    question = "Eggs cost $3 each. Dale had 2 eggs and Andrew had 2 eggs. What did both pay?"
    steps = ("The cost of Dale's eggs is 2 * $3 = $6.", "The cost of Andrew's eggs is 2 * $3 = $6.", "6 + 6 = 12.")
    assert is_used_later(question, steps, 0)
    assert is_used_later(question, steps, 1)


def test_the_last_step_is_used_by_none():
    assert not is_used_later("", ("1 + 1 = 2.",), 0)


def test_numbers_have_one_form():
    assert numbers_of("1,234.50 and 007, two, $3{,}000$") == {"1234.5", "7", "2", "3000"}


def test_an_equation_read_backwards_gives_what_stands_at_its_right():
    [equation] = read_facts("808 = 6 * 134 + 4").equations
    assert equation.parts == ("134", "4", "6", "808")
    assert equation.gives == {"6", "134", "4"}
    assert read_facts("808 = 6 * 134 + 4").derived == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "= = =",
        "1 = ",
        "= 1",
        "x = x = x",
        "\\frac",
        "9" * 5000,
        "(" * 100_000,
        "= 1" * 30_000,
        "1 + 1 = 2. " * 9000,
    ],
)
def test_what_the_question_states_is_no_news_however_odd_or_long(text):
    assert not is_used_later(text, (text, text), 0)
