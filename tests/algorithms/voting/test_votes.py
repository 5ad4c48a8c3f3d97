"""Each vote against straight-line sums, its ties, and its edges."""

import math
import random

import pytest

from algorithms.voting.tally import Candidates, Count, tally_of
from algorithms.voting.votes import METHODS, class_totals, expected_accuracy, winners

WEIGHTS = {
    "sc": lambda score, logprob: 1,
    "ws": lambda score, logprob: math.exp(logprob),
    "asc": lambda score, logprob: score,
    "asc+1": lambda score, logprob: 1 + score,
    "asc+2": lambda score, logprob: 1 + 2 * score,
}


def random_candidates(seed, num_samples=12, num_classes=4):
    draw = random.Random(seed)
    classes = [draw.choice([*range(num_classes), None]) for _ in range(num_samples)]
    return Candidates(
        classes,
        [draw.uniform(0.01, 0.99) for _ in classes],
        [-draw.expovariate(1) for _ in classes],
        [[draw.random(), draw.random()] for _ in classes],
    )


@pytest.mark.parametrize("method", WEIGHTS)
@pytest.mark.parametrize("seed", range(20))
def test_totals_are_straight_line_sums(method, seed):
    candidates = random_candidates(seed)
    expected = {}
    for number, score, logprob in zip(candidates.classes, candidates.scores, candidates.logprobs, strict=True):
        if number is not None:
            expected[number] = expected.get(number, 0) + WEIGHTS[method](score, logprob)
    totals = class_totals(method, candidates)
    assert list(totals) == list(expected)  # in order of first appearance
    assert totals == pytest.approx(expected, rel=1e-12)
    best = max(expected, key=expected.__getitem__)
    assert winners(method, candidates)[0] == best
    tied = [number for number, total in expected.items() if math.isclose(total, expected[best], rel_tol=1e-12)]
    for right in expected:
        assert expected_accuracy(method, candidates, {right}) == pytest.approx((right in tied) / len(tied))


def test_a_tie_answers_with_the_earliest_and_reports_the_expectation():
    candidates = Candidates([7, 3, 3, None, 7, 5])
    assert winners("sc", candidates) == (7, 3)
    assert [expected_accuracy("sc", candidates, {right}) for right in (7, 3, 5)] == [0.5, 0.5, 0.0]
    assert expected_accuracy("sc", candidates, {7, 3}) == 1.0


@pytest.mark.parametrize("method", ["asc", "asc+1", "asc+2"])
def test_totals_that_differ_only_by_the_order_of_summation_are_tied(method):
    scores = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]
    assert (0.1 + 0.2) + 0.3 != (0.3 + 0.2) + 0.1  # as floats
    candidates = Candidates([0, 0, 0, 1, 1, 1], scores)
    assert winners(method, candidates) == (0, 1)
    assert expected_accuracy(method, candidates, {1}) == 0.5


def test_scores_that_differ_a_little_are_not_tied():
    assert winners("asc", Candidates([0, 1], [0.5, 0.500001])) == (1,)


def test_the_bounds():
    candidates = Candidates([2, 1, 1])
    assert {method: winners(method, candidates) for method in ("first", "sc", "oracle")} == {
        "first": (2,),
        "sc": (1,),
        "oracle": (2, 1),
    }
    assert [expected_accuracy("first", candidates, {right}) for right in (1, 2)] == [0.0, 1.0]
    assert [expected_accuracy("oracle", candidates, right) for right in ({1}, {2}, {1, 2}, {3}, set())] == [
        1.0, 1.0, 1.0, 0.0, 0.0,
    ]  # fmt: skip
    # The first candidate states no answer, so `first` answers nothing.
    assert winners("first", Candidates([None, 1])) == ()
    assert expected_accuracy("first", Candidates([None, 1]), {1}) == 0.0


@pytest.mark.parametrize("method", [method for method in METHODS if method != "posterior"])
@pytest.mark.parametrize("classes", [[], [None, None]])
def test_without_a_parsable_answer_nobody_wins(method, classes):
    candidates = Candidates(classes)
    assert class_totals(method, candidates) == {}
    assert winners(method, candidates) == ()
    assert expected_accuracy(method, candidates, {0}) == 0.0


def test_a_vote_names_the_candidate_without_its_score():
    candidates = Candidates([None, 0, 1], [None, 0.5, None], [None, None, -1.0])
    for method in ("asc", "asc+1", "asc+2"):
        with pytest.raises(ValueError, match="candidate 2 has no score"):
            winners(method, candidates)
    with pytest.raises(ValueError, match="candidate 1 has no log-probability"):
        winners("ws", candidates)
    assert winners("sc", candidates) == (0, 1)
    # A sample that does not vote needs no score.
    assert winners("asc", Candidates([None, 0], [None, 0.5])) == (0,)


def test_posterior_needs_its_model_and_unknown_votes_are_refused():
    with pytest.raises(ValueError, match="needs a fitted model"):
        winners("posterior", Candidates([0]))
    with pytest.raises(ValueError, match="no vote is called 'majority'; choose from sc, ws"):
        winners("majority", Candidates([0]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scores": [0.5]}, "scores has 1 entries for 2 candidates"),
        ({"scores": [0.5, 1.5]}, "score of candidate 1 is 1.5"),
        ({"scores": [float("nan"), 0.5]}, "score of candidate 0 is nan"),
        ({"logprobs": [-1.0, 0.1]}, "log-probability of candidate 1 is 0.1"),
        ({"checks": [[1.0], []]}, "the same number of checks"),
    ],
)
def test_candidates_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Candidates([0, 1], **fields)


def test_the_numbering_of_the_classes_does_not_matter():
    candidates = random_candidates(3)
    renamed = [None if number is None else 100 - number for number in candidates.classes]
    other = Candidates(renamed, candidates.scores, candidates.logprobs)
    for method in WEIGHTS:
        assert [100 - number for number in winners(method, other)] == list(winners(method, candidates))


def test_the_order_of_the_samples_does_not_change_who_is_tied():
    classes, scores = [0, 1, 2, 0, 1, 2, 2], [0.3, 0.1, 0.2, 0.4, 0.6, 0.3, 0.1]
    draw = random.Random(0)
    for _ in range(50):
        order = draw.sample(range(7), 7)
        candidates = Candidates([classes[i] for i in order], [scores[i] for i in order])
        assert set(winners("asc", candidates)) == {0, 1}  # 0.7, 0.7 and 0.6


def test_the_tally_of_a_few_samples():
    count = Count()
    count.add(4, 0.5, -math.log(2), [1.0])
    count.add(None)
    count.add(9, 0.8, 0.0, [2.0])
    count.add(9, 0.2, 0.0, [0.5])
    tally = count.tally()
    assert count.numbers == {4: 0, 9: 1}
    assert (int(tally.num_seen), int(tally.run), tally.missing) == (4, 2, {})
    assert tally.counts.tolist() == [1, 2]
    assert tally.scores == pytest.approx([0.5, 1.0])
    assert tally.log_odds == pytest.approx([0, 0])  # log 4 + log 1/4
    assert tally.best_log_odds == pytest.approx([0, math.log(4)])
    assert tally.probabilities == pytest.approx([0.5, 2])
    assert tally.checks.tolist() == [[1.0], [2.5]]
    assert tally.is_first.tolist() == [True, False]


def test_a_score_of_0_or_1_has_finite_log_odds():
    # log(0.999 / 0.001) = 6.9068
    assert tally_of(Candidates([0, 1], [1.0, 0.0])).log_odds == pytest.approx([6.9068, -6.9068], abs=1e-4)
