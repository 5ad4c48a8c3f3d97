"""A replica of the ranker, in this process."""

import asyncio
from types import SimpleNamespace

import pytest

from algorithms.ranking.calibration import Calibration
from algorithms.ranking.solutions import Solution
from serve import ranker as module
from serve.protocol import Score
from serve.ranker import UNLOADABLE, RankerReplica


class Picky:
    """Scores by length, and raises at a text that says so."""

    def __init__(self):
        self.batches = []

    def score(self, solutions):
        self.batches.append(len(solutions))
        if any(solution.text == "raise" for solution in solutions):
            raise ZeroDivisionError("a text")
        return [1 / (1 + len(solution.text)) for solution in solutions]


@pytest.fixture
def picky(monkeypatch):
    ranker = Picky()
    folder = SimpleNamespace(kind="picky", settings={}, calibration=Calibration(), load=lambda *_: ranker)
    monkeypatch.setattr(module, "open_ranker", lambda flag, uri: folder)
    return ranker


def scores(replica, *texts):
    return replica.score_together([Solution("q", text, None) for text in texts])


def test_solutions_that_wait_are_scored_together(picky):
    replica = RankerReplica("any")
    assert scores(replica, "a", "bbb", "") == [Score(0.5), Score(0.25), Score(1.0)]
    assert picky.batches == [3]


def test_a_solution_that_raises_costs_the_others_nothing(picky):
    found = scores(RankerReplica("any"), "a", "raise", "bbb")
    assert [score.value for score in found] == [0.5, None, 0.25]
    assert found[1].problem == "the ranker raised ZeroDivisionError"


def test_a_ranker_is_used_for_the_answers_that_it_was_trained_on(picky):
    replica = RankerReplica("any")
    assert replica.problem_with("mathematics") is None
    assert replica.problem_with("number") is None
    assert replica.problem_with("choice") == "the ranker was trained on mathematics, not on answers of kind choice"


def test_a_ranker_that_cannot_be_loaded_says_so(tmp_path, caplog):
    replica = RankerReplica(str(tmp_path))
    score = asyncio.run(replica.score(Solution("q", "a", None), "mathematics"))
    assert score.value is None
    assert score.problem == UNLOADABLE
    assert "holds no ranker" in caplog.text  # for the operator
    assert replica.describe()["problem"] == score.problem
