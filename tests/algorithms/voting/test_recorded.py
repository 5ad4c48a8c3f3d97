"""Flat columns and lists of recorded samples give the same pools."""

import numpy as np

from algorithms.voting.recorded import Columns, Recorded, pools_of, pools_of_columns
from algorithms.voting.tally import Candidates

PROBLEMS = [
    Recorded(
        Candidates([7, None, 3, 7], scores=[0.1, 0.2, 0.3, 0.4], logprobs=[-1, -2, -3, -4]), [False, None, True, False]
    ),
    Recorded(Candidates([None]), [None], [9]),
    Recorded(Candidates([3, 7], checks=[[1, 2], [3, 4]]), [True, None], [5, 6]),
]


def test_columns_in_any_order_of_problems_give_the_pools_of_the_lists():
    pools = pools_of(PROBLEMS)
    assert pools.classes.tolist() == [[0, -1, 1, 0], [-1, -1, -1, -1], [0, 1, -1, -1]]
    assert pools.is_right.tolist() == [[False, True], [False, False], [True, False]]
    assert pools.is_drawn.sum(axis=1).tolist() == pools.sizes.tolist() == [4, 1, 2]
    assert pools.tokens.tolist() == [[1, 1, 1, 1], [9, 1, 1, 1], [5, 6, 1, 1]]
    assert pools.checks[2].tolist() == [[1, 2], [3, 4], [0, 0], [0, 0]]
    assert pools.scores[0].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert np.isnan(pools.scores[1:]).all()
    order = [6, 0, 4, 1, 5, 2, 3]  # problems mixed; those of problem 2 the other way round
    given = Columns(
        problems=np.array([0, 0, 0, 0, 1, 2, 2])[order],
        classes=np.array([7, -1, 3, 7, -1, 3, 7])[order],
        correct=np.array([0, -1, 1, 0, -1, 1, -1], dtype=np.int8)[order],
        scores=np.array([0.1, 0.2, 0.3, 0.4] + [np.nan] * 3)[order],
        logprobs=np.array([-1, -2, -3, -4.0] + [np.nan] * 3)[order],
        tokens=np.array([1, 1, 1, 1, 9, 5, 6.0])[order],
        checks=np.array([[0, 0]] * 5 + [[1, 2], [3, 4]])[order].astype(float),
    )
    mixed = pools_of_columns(given)
    # Problem 2's samples were given last first, so its classes are numbered the other way.
    assert mixed.classes.tolist() == [[0, -1, 1, 0], [-1, -1, -1, -1], [0, 1, -1, -1]]
    assert mixed.is_right.tolist() == [[False, True], [False, False], [False, True]]
    assert mixed.tokens[2].tolist() == [6, 5, 1, 1]


def test_nobody_votes():
    pools = pools_of([Recorded(Candidates([None, None]), [None, False])])
    assert pools.classes.tolist() == [[-1, -1]]
    assert pools.is_right.tolist() == [[False]]
    assert pools.has_scores  # none of the samples that vote lacks one
