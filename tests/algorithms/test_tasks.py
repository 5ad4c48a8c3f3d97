import dataclasses
import itertools
import random
import re
import string
from collections import Counter

import pytest

from algorithms.chains import Chain, answer_step
from algorithms.formats import parse_record
from algorithms.grading import grade
from algorithms.step_checks import check, summary
from algorithms.tasks.arithmetic import at, derivative, equations, numbers, polynomial
from algorithms.tasks.catalogue import TASKS, make_problem
from algorithms.tasks.checking import READERS, complaints
from algorithms.tasks.mark_text import mark_chain
from algorithms.tasks.marks import WORDINGS, insert
from algorithms.tasks.slips import worked

DIFFICULTIES = ("easy", "medium", "hard")
every_task = pytest.mark.parametrize("task", TASKS)
every_difficulty = pytest.mark.parametrize("difficulty", DIFFICULTIES)


def needed(problem):
    return [step for index, step in enumerate(problem.steps) if index not in problem.redundant]


@every_difficulty
@every_task
def test_made_problems_are_right_with_and_without_their_redundant_steps(task, difficulty):
    kinds = Counter()
    for index in range(200):
        problem = make_problem(task, 3, index, difficulty=difficulty, redundancy=0.5)
        assert complaints(task, problem) == [], problem
        plain = make_problem(task, 3, index, difficulty=difficulty, redundancy=0)
        assert plain.steps == tuple(needed(problem))
        assert plain.redundant == plain.kinds == ()
        kinds.update(problem.kinds)
    assert set(kinds) == set(WORDINGS)
    assert min(kinds.values()) > 20


@every_task
def test_a_problem_depends_on_its_seed_and_number_only(task):
    problems = [make_problem(task, 3, index) for index in range(300)]
    assert make_problem(task, 3, 17) == problems[17]
    assert make_problem(task, 4, 17) != problems[17]
    assert len({problem.question for problem in problems}) > 290


@every_task
def test_the_last_step_states_the_answer_and_is_never_redundant(task):
    for index in range(100):
        problem = make_problem(task, 5, index, redundancy=1)
        assert answer_step(Chain(problem.question, problem.steps, problem.answer)) == len(problem.steps) - 1
        assert len(problem.steps) - 1 not in problem.redundant
        places = Counter(sum(step not in problem.redundant for step in range(place)) for place in problem.redundant)
        assert set(places) == set(range(len(needed(problem))))  # one before each needed step
        assert all(count == 1 for count in places.values()) or "detour" in problem.kinds  # which may take two


@pytest.mark.parametrize(
    ("task", "lengths"),
    [
        ("al1", {"easy": 7, "medium": 7, "hard": 7}),
        ("nbc", {"easy": 9, "medium": 12, "hard": 16}),
        ("diff-calc", {"easy": 7, "medium": 10, "hard": 12}),
        ("time-diff", {"easy": 6, "medium": 6, "hard": 7}),
    ],
)
def test_aligned_tasks_have_the_same_steps_in_the_same_order(task, lengths):
    landmarks = {
        "al1": ["left", "left", "right", "x terms", "right", r"[Dd]ivi", "answer"],
        "nbc": [*[r"\^"] * 5, r"\+", *[r"= \d \* \d+ \+ \d"] * 4, "remainders", "answer"],
        "diff-calc": [*[r"derivative of"] * 3, "constant", r"f'\(x\)", *["x ="] * 3, r"f'\(-?\d\)", "answer"],
        "time-diff": ["24-hour", "24-hour", r"\* 60", r"\* 60", r"\d - \d", "answer"],
    }[task]
    for difficulty, index in itertools.product(DIFFICULTIES, range(100)):
        steps = make_problem(task, 2, index, difficulty=difficulty, redundancy=0).steps
        assert len(steps) == lengths[difficulty]
        if difficulty == "medium":
            assert all(re.search(landmark, step) for landmark, step in zip(landmarks, steps, strict=True)), steps


def test_word_problems_have_as_many_calculations_as_the_difficulty_says():
    for difficulty, least, most in (("easy", 2, 3), ("medium", 2, 5), ("hard", 5, 9)):
        found = {
            len(make_problem("word-problems", 0, index, difficulty=difficulty, redundancy=0).steps) - 1
            for index in range(200)
        }
        assert found == set(range(least, most + 1))


def test_unknown_tasks_and_impossible_probabilities_are_refused():
    with pytest.raises(ValueError, match="task 'al2' must be one of word-problems, al1"):
        make_problem("al2", 0, 0)
    with pytest.raises(ValueError, match=r"redundancy must be between 0 and 1, got 1\.5"):
        make_problem("al1", 0, 0, redundancy=1.5)
    assert set(READERS) == set(TASKS)


def test_each_kind_has_two_disjoint_sets_of_wordings():
    sets = {name: {text for kind in WORDINGS.values() for text in kind[name]} for name in ("a", "b")}
    assert not sets["a"] & sets["b"]
    assert all(len(kind["a"]) + len(kind["b"]) >= 6 for kind in WORDINGS.values())
    # Every field of a set's wordings occurs in the other set too, so both fit at the same places.
    fields = {
        name: {field for text in texts for _, field, _, _ in string.Formatter().parse(text) if field}
        for name, texts in sets.items()
    }
    assert fields["a"] == fields["b"]


@every_task
@pytest.mark.parametrize("wordings", ["a", "b"])
def test_a_corpus_has_the_wordings_of_its_set_only(task, wordings):
    of_other_set = [
        re.compile(".+".join(map(re.escape, re.sub(r"\{\w+\}", "\0", text.replace("{start}", "").replace("{after}", ""))
                                 .split("\n")[0].split("\0"))))
        for kind in WORDINGS.values() for text in kind["b" if wordings == "a" else "a"]
    ]  # fmt: skip
    for index in range(100):
        problem = make_problem(task, 1, index, redundancy=1, wordings=wordings)
        for step in (problem.steps[place] for place in problem.redundant):
            assert not any(pattern.fullmatch(step) for pattern in of_other_set), step


# The checker finds planted errors.


@every_difficulty
@every_task
def test_a_wrong_number_is_found(task, difficulty):
    for index in range(8):
        problem = make_problem(task, 8, index, difficulty=difficulty)
        for place in range(len(problem.steps)):
            found = re.search(r"= (-?\d+)(?![\dx^])(?! [-+*/])", problem.steps[place])
            if found is not None:
                wrong = (
                    problem.steps[place][: found.start(1)]
                    + str(int(found[1]) + 1)
                    + problem.steps[place][found.end(1) :]
                )
                steps = (*problem.steps[:place], wrong, *problem.steps[place + 1 :])
                assert complaints(task, dataclasses.replace(problem, steps=steps)), wrong


@every_difficulty
@every_task
def test_a_wrong_answer_is_found(task, difficulty):
    for index in range(8):
        problem = make_problem(task, 8, index, difficulty=difficulty)
        wrong = str(int(problem.answer) + 1)
        steps = (*problem.steps[:-1], f"The answer is {wrong}.")
        assert complaints(task, dataclasses.replace(problem, answer=wrong))
        assert complaints(task, dataclasses.replace(problem, steps=steps))
        assert complaints(task, dataclasses.replace(problem, steps=steps, answer=wrong))


@every_difficulty
@every_task
def test_a_needed_step_that_is_marked_or_missing_is_found(task, difficulty):
    for index in range(8):
        problem = make_problem(task, 8, index, difficulty=difficulty, redundancy=0)
        for place in range(len(problem.steps)):
            for kind in ("restating", "detour"):
                assert complaints(task, dataclasses.replace(problem, redundant=(place,), kinds=(kind,)))
            steps = problem.steps[:place] + problem.steps[place + 1 :]
            assert complaints(task, dataclasses.replace(problem, steps=steps))


@pytest.mark.parametrize(
    ("steps", "kinds", "complaint"),
    [
        (["There are 5 + 3 = 8 marbles.", "So far there are 9.", "The answer is 8."], {1: "remark"},
         "is redundant, but states 9 for the first time"),
        (["We try 5 * 3 = 15.", "With 15 in mind, there are 5 + 3 = 8 marbles.", "The answer is 8."], {0: "detour"},
         "uses 15 from a detour"),
        (["There are 5 + 4 = 9 marbles.", "The answer is 8."], {}, "uses 4, which no needed step states before"),
        (["There are 5 + 3 = 8 marbles.", "The answer is 8.", "So far, so good."], {2: "remark"},
         "the last step does not state the answer"),
        (["Indeed, 5 + 3 = 8.", "There are 5 + 3 = 8 marbles.", "The answer is 8."], {0: "detour"},
         "is redundant, but states what a needed step states later"),
        (["There are 5 + 3 = 8 marbles.", "In other words, 5 + 3 equals 5.", "The answer is 8."], {1: "restating"},
         "5 + 3 = 5 is false"),
    ],
)  # fmt: skip
def test_what_the_checker_says(steps, kinds, complaint):
    question = "Ben has 5 marbles. Then Ben finds 3 more marbles at school. How many marbles does Ben have now?"
    right = make_problem("word-problems", 0, 0)
    problem = dataclasses.replace(
        right, question=question, steps=tuple(steps), answer="8", redundant=tuple(kinds), kinds=tuple(kinds.values())
    )
    assert any(complaint in each for each in complaints("word-problems", problem))


def test_a_question_that_the_checker_cannot_read_is_a_complaint():
    problem = dataclasses.replace(make_problem("al1", 0, 0), question="How are you?")
    [complaint] = complaints("al1", problem)
    assert complaint.startswith("the question cannot be read")


def test_arithmetic_is_exact():
    assert polynomial("3(x - 4) + 2x") == {1: 5, 0: -12}
    assert polynomial("-2 * (-3)^3 / 4") == {0: 54 / 4}
    assert polynomial("5 * (-2)x^(5 - 1)") == {4: -10}
    assert polynomial("2 - 2") == polynomial("0x") == {}
    cubed = polynomial("2x^3 - x")
    assert polynomial("f'(2) + f(1)", {"f": cubed, "f'": derivative(cubed)}) == {0: 24 - 1 + 1}
    assert at(cubed, -1) == -1
    for wrong in ("3 +", "(2", "2 3", "1 / 0", "2^x", "y", "2^101", ""):
        with pytest.raises(ValueError):  # noqa: PT011
            polynomial(wrong)


def test_numbers_and_equations_are_found_in_a_text():
    text = "Twice as many is 9:05 on the 24-hour clock, so 2(x + 1) = 2x + 2 = -4. That is, 3 * 4 equals 12."
    assert numbers(text) == {1, 2, 3, 4, 5, 9, 12}
    assert equations(text) == [["2(x + 1)", "2x + 2", "-4"], ["3 * 4", "12"]]


# Slips


def test_worked_solutions_are_right_or_hold_one_mistake():
    rng, kinds = random.Random(0), Counter()
    for index in range(300):
        problem = make_problem("word-problems", 3, index)
        assert worked(problem, rng, 0.0) == "\n".join(needed(problem))
        wrong = worked(problem, rng, 1.0)
        counts = summary(check(wrong, problem.question))
        kinds["false claim" if counts["claims_false"] else "forgotten"] += 1
        assert counts["claims_false"] <= 1
        is_right = grade(problem.question, problem.answer, wrong, last_number=False).correct
        kinds["right by luck"] += bool(is_right)
    assert kinds["false claim"] > 80
    assert kinds["forgotten"] > 80
    assert kinds["right by luck"] < 15  # 0 + 0, or two mistakes of a division that meet


# Marks in real solutions

GSM8K = [
    {
        "question": "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
        "How many clips did Natalia sell altogether in April and May?",
        "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips "
        "altogether in April and May.\n#### 72",
    },
    {
        "question": "Mina packs 6 rows of 1,200 pears and sells a third of them. Each pear costs $0.5. "
        "What does she earn?",
        "answer": "She has 6 rows x 1,200 pears = <<6*1200=7200>>7,200 pears.\nShe sells 7,200 / 3 = "
        "<<7200/3=2400>>2,400 pears.\nThis makes:\n2,400 * $0.5 = $<<2400*0.5=1200>>1,200.\n#### 1200",
    },
]  # fmt: skip
CHAINS = [parse_record(record, "gsm8k", {}, None) for record in GSM8K]


@pytest.mark.parametrize("chain", CHAINS, ids=["clips", "pears"])
@pytest.mark.parametrize("wordings", ["a", "b", "all"])
def test_marks_keep_the_steps_of_a_real_solution(chain, wordings):
    kinds = Counter()
    for seed in range(100):
        problem = mark_chain(chain, seed, "gsm8k.jsonl:0", 0.7, wordings)
        assert problem == mark_chain(chain, seed, "gsm8k.jsonl:0", 0.7, wordings)
        assert tuple(needed(problem)) == chain.steps
        assert (problem.question, problem.answer) == (chain.question, chain.answer)
        assert problem.steps[-1] == chain.steps[-1]
        kinds.update(problem.kinds)
        for place in problem.redundant:
            assert problem.steps[place - 1] != "This makes:" or place == 0
            assert summary(check(problem.steps[place], chain.question))["claims_false"] == 0
            assert numbers(problem.steps[place].replace(",", "")) <= numbers(
                " ".join([chain.question, *problem.steps[:place]]).replace(",", "")
            )
    assert set(kinds) == set(WORDINGS) - {"detour"}
    assert mark_chain(chain, 0, 0, 0.0).steps == chain.steps


def redundant_after_first(steps, answer, question="How many?"):
    """Every redundant step that can stand behind the first step."""
    chain, found = Chain(question, tuple(steps), answer), set()
    for seed in range(300):
        problem = mark_chain(chain, seed, 0, 1.0)
        first = problem.steps.index(steps[0])
        found |= {problem.steps[place] for place in problem.redundant if place == first + 1}
    return found


def test_calculations_of_real_solutions_are_repeated_only_if_they_hold():
    def said(step, then="So it is 7."):
        return {text for text in redundant_after_first([step, then], "7") if re.search(r"\d", text)}

    assert "To check, we note that 24 * 2 = 48." in said("She sold 48/2 = 24 clips.")
    assert "As we have seen, dividing 48 by 2 yields 24." in said("She sold 48/2 = 24 clips.")
    assert "In other words, 3 * 1.50 equals 4.50." in said("They cost 3 cups x $1.50 = $4.50.")
    assert "Computing it again gives 75 - 30 = 45." in said("He drove 75 mph - 30 mph = 45 mph too fast.")
    for unfit in ("10 / 3 = 3.33", "2 + 3 * 4 = 14", "50% * 20 = 10", "5 + 5 = 20 / 2", "20 * 50 = 10%", "a = 5"):
        assert said(f"We get {unfit}.") == set()
    # What a later step says is new there.
    assert "To check, we note that 24 * 2 = 48." not in said("That is 48/2 = 24.", "In all, 24 clips * 2 = 48, so 7.")


def test_nothing_is_put_behind_the_answer_or_an_open_step():
    assert redundant_after_first(["The answer is 7.", "We are done."], "7") == set()
    assert redundant_after_first(["We get:", "The answer is 7."], "7") == set()
    assert redundant_after_first(["We think.", "The answer is 7."], "7") != set()
    lines = "First line\nsecond line"
    assert not any(lines in text for text in redundant_after_first(["We think.", "So 7."], "7", lines))


def test_a_place_without_fields_takes_no_redundant_step():
    assert insert(["One.", "Two."], [{}, {}], random.Random(0), 1.0, "all").steps == ("One.", "Two.")
