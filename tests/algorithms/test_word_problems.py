import random
import re
from collections import Counter

import pytest

from algorithms.chains import Chain, answer_step
from algorithms.grading import grade
from algorithms.slips import worked
from algorithms.step_checks import check, summary
from algorithms.word_problems import generate

PROBLEMS = [generate(seed=3, index=index) for index in range(300)]


def test_a_problem_depends_on_its_seed_and_number_only():
    assert generate(3, 17) == PROBLEMS[17]
    assert generate(4, 17) != PROBLEMS[17]
    assert len({problem.question for problem in PROBLEMS}) > 295


def test_every_calculation_is_right_and_leads_from_the_start_to_the_answer():
    for problem in PROBLEMS:
        needed = [step for index, step in enumerate(problem.steps) if index not in problem.redundant]
        count = int(re.search(r"has (\d+)", problem.question)[1])
        for step in needed[:-1]:
            left, sign, right, result = re.search(r"(\d+) ([-+*/]) (\d+) = (\d+)", step).groups()
            assert int(left) == count
            count = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right),
                     "/": int(left) // int(right)}[sign]  # fmt: skip
            assert count == int(result)
        assert str(count) == problem.answer


def test_the_last_step_states_the_answer_and_redundant_steps_calculate_nothing():
    for problem in PROBLEMS:
        assert answer_step(Chain(problem.question, problem.steps, problem.answer)) == len(problem.steps) - 1
        assert not any(re.search(r"\d [-+*/] \d", problem.steps[index]) for index in problem.redundant)
    assert sum(len(problem.redundant) for problem in PROBLEMS) > 300


def test_the_number_of_operations_is_bounded_and_checked():
    assert len(generate(0, 0, (1, 1)).steps) >= 2
    with pytest.raises(ValueError, match="least <= most"):
        generate(0, 0, (3, 2))


def test_worked_solutions_are_right_or_hold_one_mistake():
    rng, kinds = random.Random(0), Counter()
    for index in range(300):
        problem = generate(3, index)
        whole = [step for place, step in enumerate(problem.steps) if place not in problem.redundant]
        assert worked(problem, rng, 0.0) == "\n".join(whole)
        wrong = worked(problem, rng, 1.0)
        counts = summary(check(wrong, problem.question))
        kinds["false claim" if counts["claims_false"] else "forgotten"] += 1
        assert counts["claims_false"] <= 1
        is_right = grade(problem.question, problem.answer, wrong, last_number=False).correct
        kinds["right by luck"] += bool(is_right)
    assert kinds["false claim"] > 80
    assert kinds["forgotten"] > 80
    assert kinds["right by luck"] < 15  # 0 + 0, or two mistakes of a division that meet
