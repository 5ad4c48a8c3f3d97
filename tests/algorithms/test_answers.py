"""Final answers: equivalence against a table, extraction against sentences, classes."""

import itertools

import pytest

from algorithms.answers.classes import answer_classes, joined_classes
from algorithms.answers.demands import demand_of, meets
from algorithms.answers.equivalence import equivalent
from algorithms.answers.extraction import Extracted, extract, last_boxed
from algorithms.answers.string_rule import normalise, string_correct
from algorithms.answers.structure import UnparsableAnswer, parse_answer
from algorithms.grading import grade
from tests.algorithms.equivalence_cases import EQUAL, NOT_EQUAL

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:antlr4.*")


def test_the_table_is_large_and_does_not_contradict_itself():
    assert len(EQUAL) + len(NOT_EQUAL) >= 150
    equal = {frozenset(pair) for pair in EQUAL}
    assert not equal & {frozenset(pair) for pair in NOT_EQUAL}
    assert len(equal) == len(EQUAL)


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_answers_are_equal_both_ways(one, other):
    assert equivalent(one, other)
    assert equivalent(other, one)


@pytest.mark.parametrize(("one", "other"), NOT_EQUAL)
def test_other_answers_are_not_equal_either_way(one, other):
    assert not equivalent(one, other)
    assert not equivalent(other, one)


@pytest.mark.parametrize("answer", sorted({answer for pair in EQUAL + NOT_EQUAL for answer in pair}))
def test_an_answer_equals_itself(answer):
    # Not letter by letter, which would be no test: in braces, which only parsing takes away.
    plain = "$" not in answer and r"\text" not in answer and not answer.endswith(".")
    assert equivalent(answer, f"{{{answer}}}" if plain else f"{answer} .")


@pytest.mark.parametrize("missing", ["", "   ", "\n"])
def test_nothing_equals_a_missing_answer(missing):
    assert not equivalent(missing, missing)
    assert not equivalent(missing, "0")
    assert not equivalent(r"\emptyset", missing)


@pytest.mark.parametrize(
    ("question", "gold", "right", "wrong"),
    [
        ("List them from least to greatest.", "1, 2, 3", "1, 2, 3.0", "3, 1, 2"),
        ("Write the roots in increasing order.", r"1, \frac{1}{2}", "1, 0.5", "0.5, 1"),
        ("Factor $3x^2+10x+7$.", "(3x+7)(x+1)", "(x+1)(3x+7)", "3x^2+10x+7"),
        ("Factor completely: $2x^2 - 8$", "2(x+2)(x-2)", "2 (x - 2)(x + 2)", "2(x^2-4)"),
        ("Factor $144b^3+72b^2$.", "72b^2(2b+1)", "72 b^2 (1+2b)", "b^2(144b+72)"),
        ("Expand the product $(x+3)(x+5)$.", "x^2+8x+15", "15+x^2+8x", "(x+3)(x+5)"),
        ("Expand $3(8x^2-2x+1)$.", "24x^2-6x+3", "3-6x+24x^2", "3(8x^2-2x+1)"),
    ],
)
def test_a_question_may_demand_a_form(question, gold, right, wrong):
    demand = demand_of(question)
    assert equivalent(gold, right)
    assert meets(demand, gold, right)
    assert equivalent(gold, wrong)
    assert not meets(demand, gold, wrong)
    assert meets(demand_of("What is it?"), gold, wrong)


@pytest.mark.parametrize(
    ("question", "gold", "tidy", "untidy"),
    [
        ("Express your answer as a common fraction.", r"\frac{1}{8}", r"\frac{2}{16}=\frac{1}{8}", r"\frac{2}{16}"),
        ("Give a fraction in lowest terms.", r"\frac{70}{333}", "70/333", r"\frac{210}{999}"),
        (r"Simplify $\frac{10a^3}{55a^2}$ when $a=3$.", r"\frac{6}{11}", r"\dfrac{6}{11}", r"\frac{18}{33}"),
        ("Simplify it.", "-1", "-1", r"-\frac{1}{1}"),
        ("Write it in simplest radical form.", r"5\sqrt{2}", r"5 \sqrt2", r"\sqrt{50}"),
        ("Rationalize the denominator.", r"\frac{\sqrt{5}}{5}", r"\frac{1}{5}\sqrt{5}", r"\frac{1}{\sqrt{5}}"),
        ("Rationalize the denominator.", r"\frac{\sqrt{6}}{3}", r"\frac{\sqrt{6}}{3}", r"\sqrt{\frac{2}{3}}"),
        ("As a common fraction in terms of pi.", r"\frac{289\pi}{4}", r"\frac{289}{4}\pi", r"72.25\pi"),
        ("Express your answer as a mixed number.", r"1\frac{2}{3}", r"1 \frac23", "5/3"),
        ("Express it as a decimal to the nearest tenth.", "21.6", "21.60", r"\frac{108}{5}"),
        ("Write it without any absolute value signs.", r"7-2\pi", r"-2\pi+7", r"|2 \pi - 7|"),
        ("Express as a single fraction.", r"\frac{8-7x}{6}", r"\frac{-7x+8}{6}", r"\frac{-7x}{6}+\frac{4}{3}"),
    ],
)
def test_the_right_value_in_another_form_than_demanded_is_neither_right_nor_wrong(question, gold, tidy, untidy):
    graded = [grade(question, gold, rf"So \boxed{{{answer}}}.", last_number=False) for answer in (tidy, untidy)]
    assert [(each.correct, each.reason) for each in graded] == [(True, None), (None, "other_form")]
    assert grade("What is it?", gold, rf"So \boxed{{{untidy}}}.", last_number=False).correct


@pytest.mark.parametrize(
    ("gold", "solution", "correct"),
    [
        ("12", r"<think>\boxed{13}</think> The answer is 12.", True),
        ("4", r"2 + 2 = 4. So the answer is \boxed{}.", None),
        ("3, 5", r"So $x = \boxed{3}$ or $x = \boxed{5}$.", True),
        ("5", r"First \boxed{4} apples, and then \boxed{5}.", True),
        ("5", r"So $x = \boxed{3}$ and $y = \boxed{5}$.", None),
        ("3", r"So $x = \boxed{3}$ and $y = \boxed{5}$.", None),
        ("4", r"So $x = \boxed{3}$ and $y = \boxed{5}$.", False),
        ("12", "The answer is: 12\n\nProblem: What is 4 times 10?\nThe answer is 40.", True),
        ("12", "The answer is $12$ dollars, i.e. $1200$ cents.", True),
        ("星期二", "所以答案是星期二。", True),
        ("3000", "So there are 3000 meters in 3 kilometers.", None),  # a last number is not sure enough for wrong
        ("3", "So there are 3000 meters in 3 kilometers.", True),
        ("??", "The answer is 1.", None),
    ],
)
def test_what_a_user_found(gold, solution, correct):
    assert grade("How many?", gold, solution, last_number=True).correct is correct


REVIEWED = [  # found by a reviewer of this code
    ("2xyz", "2", False), ("6xyz", "6", False), ("3abc", "3xyz", False), ("xyz", "zyx", True), ("abc", "cba", True),
    (r"5 \text{ is wrong}", "5", False), ("5 or more", "5", False), ("2 thirds", "2", False),
    ("2 thirds", r"\frac{2}{3}", True), ("2 dozen", "24", True), ("3 trillion", "3", False),
    ("3 pounds", "3 ounces", False), ("1 year", "1 month", False), (r"5^\circ C", r"5^\circ F", False),
    ("1 pound", "16 ounces", True), ("2,000", "2, 0", False), (r"\text{row } -3", r"\text{row } 3", False),
    (r"\text{是}", r"\text{否}", False), (r"\text{是}", r"\text{是 }", True), ("-abc", "abc", False),
    (r"x>2 \text{ and } x<5", "(2,5)", True), (r"x>2 \text{ and } x<5", r"\mathbb{R}", False),
    (r"x \ge 0, x \ne 2", r"[0,2) \cup (2,\infty)", True), ("x < -1, x > 4", r"(-\infty,-1) \cup (4,\infty)", True),
    ("x**2+y**2", "x^2+y^2", True), ("x**2+y**2", "2x+2y", False), ("8.24", r"\sqrt{68} \approx 8.24", True),
    ("ln(2)", r"\ln 2", True), ("sin(x)", r"\sin x", True), (r"5\text{ L}", "5", True), ("option B", "B", True),
    (r"\infty-\infty", "5", False), (r"\sqrt{21}", r"\gcd(4,6)", False),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "are_equal"), REVIEWED)
def test_what_a_reviewer_found(one, other, are_equal):
    assert equivalent(one, other) == are_equal
    assert equivalent(other, one) == are_equal


OPTIONS = r"Which is it? $\textbf{(A)}\ 11 \qquad \textbf{(B)}\ 12 \qquad \textbf{(C)}\ \text{a cone}$"


@pytest.mark.parametrize(
    ("question", "gold", "answer", "correct"),
    [
        ("What is the ratio of $a$ to $b$?", "11:21", "22:42", True),
        ("At what time does it end?", "11:21", "22:42", False),
        ("It starts at 8:30 and takes 3 hours. When does it end?", "2:05", "4:10", False),
        ("What is the ratio?", "4:10", "2:5", True),
        ("What time is it?", "5:00", "5", True),
        ("How long is it?", "5:00", "5", False),
        ("Find the ordered pair $(x,y)$.", "(2,3)", "2, 3", True),
        ("Find the ordered pair $(x,y)$.", "(2,3)", "3, 2", False),
        ("Find all values.", "2,3", "3, 2", True),
        ("What fraction or percent is it?", r"75\%", r"\frac{3}{4}", True),
        ("What is the probability?", "0.75", "75%", True),
        ("What is it worth?", "0.75", "75%", None),
        ("What is the probability?", "0.75", "7.5%", False),
        (OPTIONS, "B", "12", True),
        (OPTIONS, "12", "(B)", True),
        (OPTIONS, "12", "(A)", False),
        (OPTIONS, r"\text{(C)}", r"\text{a cone}", True),
        (OPTIONS, "B", "13", False),
        ("Choose.\nA) 3\nB) 4", "B", "4", True),
        ("How many balls?", r"5 \text{ balls}", r"5 \text{ marbles}", None),
        ("How many balls?", r"5 \text{ balls}", r"6 \text{ marbles}", False),
        ("Which way?", r"5 \text{ miles north}", r"5 \text{ miles south}", False),
        ("How far?", r"5 \text{ feet}", r"5 \text{ inches}", False),
        ("At which rate?", r"\$5 \text{ per hour}", r"\$5", None),
    ],
)
def test_the_question_decides_where_the_text_cannot(question, gold, answer, correct):
    assert grade(question, gold, rf"So \boxed{{{answer}}}.", last_number=False).correct is correct


def test_one_right_answer_among_several_boxes_is_no_grade():
    graded = grade("Find the angle.", "150", r"So \boxed{30^\circ} or \boxed{150^\circ}.", last_number=False)
    assert (graded.answer, graded.correct, graded.reason) == (r"30^\circ, 150^\circ", None, "several_answers")
    assert grade("Find the angle.", "150", r"So \boxed{30} or \boxed{60}.", last_number=False).correct is False


def test_a_form_that_the_gold_answer_lacks_is_not_demanded():
    assert meets(demand_of("Factor $x^2+1$ if you can."), "x^2+1", "1+x^2")
    assert meets(demand_of("Expand it."), "(x+1)^2", "(1+x)(x+1)")


@pytest.mark.parametrize("answer", [r"\frac{1}{", "x" * 3000, r"\frac{1}{2}+\cdots+\frac{1}{9}", "(1,,2)"])
def test_what_is_no_answer_is_said_to_be_none(answer):
    with pytest.raises(UnparsableAnswer):
        equivalent(answer, "12345")
    assert equivalent(answer, f" {answer} ")  # the same text is the same answer


@pytest.mark.parametrize(
    ("solution", "answer", "found_by"),
    [
        (r"So it is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}", "boxed"),
        (r"First \boxed{1}, no: \boxed{2}, or \boxed{3", "2", "boxed"),
        (r"Thus $\fbox{7}$", "7", "boxed"),
        (r"It is $\boxed 9$.", "9", "boxed"),
        (r"The answer is 3. \boxed{4}", "4", "boxed"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "boxed"),
        ("2 + 2 = 4\n#### 4", "4", "hashes"),
        ("She has 3.\nThe answer is 36-48\\pi square centimeters.", "36-48\\pi square centimeters", "stated"),
        ("The answer is 3.14.", "3.14", "stated"),
        ("**Final answer:** 12 apples", "12 apples", "stated"),
        ("The answer to the question is: $5$.", "$5$", "stated"),
        ("The answer is 8:34 p.m.", "8:34 p.m", "stated"),
        ("10 + 8 = 18\nA: 18", "18", "stated"),
        ("#### Step 2: Sum\n9+9=18\nThe answer is 18.", "18", "stated"),
        ("The result is 12 for the numerator. Therefore, $x = 4$.", "4", "concluded"),
        ("Therefore, $n=9$ (since $n$ is positive).", "9", "concluded"),
        (r"our final answer is \[\frac{1}{2}.\]", r"\frac{1}{2}.", "stated"),
        (r"We compute. Therefore, $x = \frac{3}{2}$.", r"\frac{3}{2}", "concluded"),
        (r"Hence, the solutions are $-4$ and $\frac{3}{5}$.", r"$-4$ and $\frac{3}{5}", "concluded"),
        ("So, there are 102 integers in all.", "102", "concluded"),
    ],
)
def test_extraction_finds_what_a_solution_states(solution, answer, found_by):
    found = extract(solution)
    assert found is not None
    assert found.found_by == found_by
    assert found.answer.rstrip("$. ") == answer.rstrip("$. ")


@pytest.mark.parametrize(
    "solution",
    ["", "We do not know.", "Thus, there is no such $n$.", r"\boxed{}", "The answer is not unique.", "2 is even"],
)
def test_extraction_finds_nothing_where_nothing_is_stated(solution):
    assert extract(solution) is None


def test_the_last_number_only_where_it_is_allowed():
    assert extract("He had 3, then 1,250") is None
    assert extract("He had 3, then 1,250", last_number=True) == Extracted("1,250", "last_number")
    assert extract("Nothing", last_number=True) is None
    assert extract("Eggs:\n- 18 eggs", last_number=True) == Extracted("18", "last_number")
    assert extract("It takes 10-12", last_number=True) == Extracted("12", "last_number")
    assert extract("It falls to -12", last_number=True) == Extracted("-12", "last_number")


def test_boxes_balance():
    assert last_boxed(r"\boxed{a{b}{c}}") == "a{b}{c}"
    assert last_boxed(r"\boxed{a \} b}") == r"a \} b"
    assert last_boxed(r"\boxed{1} then \boxed{2") == "1"
    assert last_boxed("no box") is None


def test_the_string_rule_knows_spelling_and_no_mathematics():
    assert string_correct(r"\frac{1}{2}", r"\boxed{\dfrac12}")
    assert string_correct("0.5", r"\boxed{1/2}")
    assert string_correct("5", r"\boxed{x = 5 \text{ cm}}")
    assert not string_correct(r"\frac{1}{2}", r"\boxed{\frac{2}{4}}")
    assert not string_correct("5", "The answer is 5.")
    assert not string_correct("", r"\boxed{}")
    assert normalise(r"\left( 3 ,\ 4 \right)") == r"(3,\4)"


def test_classes_are_the_same_in_any_order():
    answers = ["5", "5 cm", "5 meters", "6", None, r"\frac{1}{", "6.0"]
    for order in itertools.islice(itertools.permutations(answers), 0, None, 97):
        classes = dict(zip(order, answer_classes(order), strict=True))
        # 5 cm and 5 meters are joined by the bare 5; what is missing or unparsable has no class.
        assert classes["5"] == classes["5 cm"] == classes["5 meters"]
        assert classes["6"] == classes["6.0"] != classes["5"]
        assert classes[None] is classes[r"\frac{1}{"] is None
        numbers = [number for number in answer_classes(order) if number is not None]
        assert list(dict.fromkeys(numbers)) == [0, 1]  # numbered as they appear


def test_parsing_keeps_what_a_thing_is():
    assert type(parse_answer("(1,2]")).__name__ == "Sequence"
    assert type(parse_answer(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}")).__name__ == "Matrix"
    assert type(parse_answer("18 cans of red paint")).__name__ == "Quantity"
    assert parse_answer(" ") is None


def test_the_classes_of_several_sources_become_one_numbering_without_comparing_a_source_with_itself():
    compared = []

    def equal(one, other):
        compared.append({one, other})
        return float(one) == float(other)

    assert joined_classes([["1", "2"], ["2.0", "3"], ["1", "3.0"]], equal) == [[0, 1], [1, 2], [0, 2]]
    assert {"1", "2"} not in compared
    assert {"2.0", "3"} not in compared
    assert joined_classes([["1/2"], ["0.5", "2"], ["x"]]) == [[0], [0, 1], [2]]
