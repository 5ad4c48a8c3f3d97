import pytest

from algorithms.chains import Chain, answer_step, solution_text


@pytest.mark.parametrize(
    ("steps", "answer", "expected"),
    [
        (("3 + 4 = 7", "So 7 it is.", "#### 7"), "7", 2),
        (("He has 7.", "He is 17.", "It took 7.5 hours."), "7", 0),
        (("The total is $1,234.", "We are done."), "1234", 0),
        (("The total is 1234.",), "1,234", 0),
        (("Half is 7/2.",), "7", None),
        (("x = 3", r"so \boxed{\frac{1}{2}}."), r"\frac{1}{2}", 1),
        (("nothing here",), "7", None),
        (("first", "last"), "", 1),
        (("-3 is less", "it is -3"), "-3", 1),
        (("The answer is (A).", "A quick check confirms it."), "A", 0),
        (("So B is right.", "A check: (A) is too small."), "B", 0),
        (("The answer is 7.", "Check: 3 + 4 is 7 indeed."), "7", 0),
        ((r"Hence \boxed{7}.", "Note that 7 is prime."), "7", 0),
        (("The total is 5.", "So the answer to the question is $5 per day.", "5 it is."), "5", 1),
        (("3 + 4 = 7.", "The answer is below.", "7"), "7", 2),
    ],
)
def test_the_step_that_states_the_answer(steps, answer, expected):
    assert answer_step(Chain("q", steps, answer)) == expected


def test_separators_stand_between_the_steps():
    chain = Chain("q", ("a", "b", "7"), "7", "\n", ("\n\n", " "))
    assert chain.text == "a\n\nb 7"
    assert Chain("q", ("a", "b"), "7", " ").text == "a b"


def test_an_answer_that_no_step_states_ends_the_solution():
    assert solution_text(Chain("q", ("a", "b"), "7", "\n", (" ",))) == "a b\n7"
    assert solution_text(Chain("q", ("a", "= 7"), "7")) == "a\n= 7"
