import pytest

from algorithms.chains import Chain, answer_step, split_steps


@pytest.mark.parametrize(
    ("text", "split", "expected"),
    [
        ("a\nb\n\n c ", "newline", (("a", "b", "c"), "\n")),
        ("a\nb\n \nc", "paragraph", (("a\nb", "c"), "\n\n")),
        ("It is 3.5 m. So 2 rest! Is it? Yes.", "sentence", (("It is 3.5 m.", "So 2 rest!", "Is it?", "Yes."), " ")),
        ("Thus $x=1$. $y=2$ follows.", "sentence", (("Thus $x=1$.", "$y=2$ follows."), " ")),
        ("one;two; three", "regex:;", (("one", "two", "three"), "\n")),
        ("", "newline", ((), "\n")),
    ],
)
def test_split(text, split, expected):
    assert split_steps(text, split) == expected


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("words", "unknown split 'words': use one of newline, paragraph, sentence or regex:PATTERN"),
        ("regex:(", "not a regular expression"),
        ("regex:(a)", "capturing group"),
    ],
)
def test_a_split_that_is_none_is_refused(split, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        split_steps("text", split)


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
    ],
)
def test_the_step_that_states_the_answer(steps, answer, expected):
    assert answer_step(Chain("q", steps, answer)) == expected
