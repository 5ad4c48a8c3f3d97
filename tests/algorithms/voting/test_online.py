"""A vote while its samples arrive: the same decision as an offline replay, budgets, and what is shown."""

import random

import numpy as np
import pytest

from algorithms.answers.classes import GrowingClasses, answer_classes
from algorithms.voting.online import BY_COUNT, Drawn, Limits, OnlineVote, StopReason, fitted, margin
from algorithms.voting.policy import Policy
from algorithms.voting.pools import at_prefix, prefix_tally
from algorithms.voting.recorded import pools_of
from algorithms.voting.replay import first_stops, fit_gain, fit_posterior_on_prefixes
from algorithms.voting.stopping import Beta, BetaWeighted, Cges, Fixed, Gain, Window
from algorithms.voting.sweeps import Sweep
from algorithms.voting.votes import winners
from tests.algorithms.voting.worlds import ranked_world

BUDGET = 8
TRAINING = pools_of(ranked_world(300, BUDGET, seed=1))
POSTERIOR = fit_posterior_on_prefixes(TRAINING, [2, 4, 8])
GAIN = fit_gain(TRAINING, method="posterior", posterior=POSTERIOR, num_orders=2)
PROBLEMS = ranked_world(40, BUDGET, seed=2)
POLICIES = {
    "fixed": Policy("sc", Fixed(5, maximum=BUDGET)),
    "beta": Policy("sc", Beta(0.9, maximum=BUDGET)),
    "window": Policy("sc", Window(3, maximum=BUDGET)),
    "cges": Policy("asc", Cges(0.8, maximum=BUDGET)),
    "beta-weighted": Policy("asc+1", BetaWeighted(0.7, minimum=2, maximum=BUDGET)),
    "gain": Policy("posterior", Gain(0.01, maximum=BUDGET, model=GAIN, posterior=POSTERIOR), POSTERIOR),
}


def sample(problem, index):
    candidates = problem.candidates
    number = candidates.classes[index]
    return Drawn(
        index,
        problem.tokens[index],
        None if number is None else f"answer {number}",
        (),
        candidates.scores[index],
        candidates.logprobs[index],
    )


def run(policy, problem, parallel=3, seed=0):
    """Draw the recorded samples, which finish in a random order, until the vote stops."""
    vote = OnlineVote(policy, Limits(BUDGET, parallel, 600))
    generator, running, finished, following = random.Random(seed), [], {}, 0
    while vote.stop_reason is None:
        running += vote.start()
        if vote.stop_reason is not None:
            break
        index = running.pop(generator.randrange(len(running)))
        finished[index] = sample(problem, index)
        while following in finished and vote.stop_reason is None:
            vote.count(finished.pop(following))
            following += 1
    return vote


@pytest.mark.parametrize("name", POLICIES)
def test_recorded_samples_decide_online_as_the_replay_does(name):
    policy = POLICIES[name]
    pools = pools_of(PROBLEMS)
    tally = prefix_tally(pools)
    sweep = Sweep(policy.rule, (policy.rule.threshold,))
    stops = first_stops(sweep, sweep.rule.statistic(tally), pools.sizes)[:, 0] + 1
    for number, problem in enumerate(PROBLEMS):
        vote = run(policy, problem, seed=number)
        assert vote.num_counted == stops[number]
        assert vote.num_tokens == sum(problem.tokens[: stops[number]])
        used = slice(0, int(stops[number]))
        candidates = type(problem.candidates)(
            problem.candidates.classes[used], problem.candidates.scores[used], problem.candidates.logprobs[used]
        )
        expected = winners(policy.vote, candidates, policy.posterior)
        found = vote.standings()
        assert (found[0].answer if found else None) == (f"answer {expected[0]}" if expected else None)
    assert 1 < np.mean(stops) < BUDGET
    assert at_prefix(tally, 0).num_seen.max() == 1


@pytest.mark.parametrize("parallel", [1, 2, 5, 8])
def test_the_decision_does_not_depend_on_what_finishes_first(parallel):
    policy = POLICIES["beta-weighted"]
    for problem in PROBLEMS[:10]:
        votes = [run(policy, problem, parallel, seed) for seed in range(3)]
        assert len({(vote.num_counted, str(vote.standings())) for vote in votes}) == 1


def test_no_more_than_the_window_is_on_its_way():
    vote = OnlineVote(Policy("sc", Beta(0.99)), Limits(16, 3, 100))
    assert list(vote.start()) == [0, 1, 2]
    assert not vote.start()
    vote.count(Drawn(0, 10, "1"))
    assert list(vote.start()) == [3]
    assert vote.in_flight == {1, 2, 3}


def test_no_sample_is_begun_if_those_on_their_way_may_decide():
    # At 0.9, three samples that agree are enough: 1 - 2 ** -4 = 0.9375.
    vote = OnlineVote(Policy("sc", Beta(0.9)), Limits(16, 3, 100))
    vote.start()
    vote.count(Drawn(0, 10, "1"))
    assert not vote.start()
    vote.count(Drawn(1, 10, "2"))
    assert list(vote.start()) == [3, 4]  # 2 against 1 decides nothing


def test_what_the_rule_needs_anyway_is_drawn_at_once():
    vote = OnlineVote(Policy("sc", Beta(0.9, minimum=6)), Limits(16, 2, 100))
    assert list(vote.start()) == [0, 1, 2, 3, 4, 5]


def test_the_tokens_of_all_samples_stay_below_their_limit():
    # One of 100 tokens may be drawn while 250 are left, two may not be on their way beside 100 used ones.
    vote = OnlineVote(Policy("sc", Fixed(16)), Limits(16, 4, 100, max_tokens=250))
    assert list(vote.start()) == [0, 1]
    vote.count(Drawn(0, 100, "1"))
    assert not vote.start()
    assert vote.stop_reason is None
    vote.count(Drawn(1, 60, "2"))
    assert not vote.start()
    assert vote.stop_reason is StopReason.MAX_TOKENS
    assert vote.num_tokens == 160


def test_all_samples_drawn_without_a_decision():
    vote = run(Policy("sc", Beta(0.999999)), PROBLEMS[0])
    assert (vote.stop_reason, vote.num_counted) == (StopReason.MAX_SAMPLES, BUDGET)


def test_failed_samples_take_no_part():
    vote = OnlineVote(Policy("sc", Fixed(3, maximum=3)), Limits(3, 3, 100))
    vote.start()
    vote.count(Drawn(0, 10, "1"))
    vote.fail(1, 4)
    assert vote.stop_reason is None
    vote.fail(2)
    assert vote.stop_reason is StopReason.FAILED
    assert (vote.num_failed, vote.num_tokens, vote.standings()[0].indices) == (2, 14, (0,))


def test_a_missing_score_makes_the_vote_count():
    vote = OnlineVote(Policy("asc", BetaWeighted(0.99)), Limits(8, 8, 100))
    vote.start()
    vote.count(Drawn(0, 10, "1", score=0.2))
    vote.count(Drawn(1, 10, "2", score=0.9))
    assert vote.policy.vote == "asc"
    assert vote.standings()[0].answer == "2"
    vote.count(Drawn(2, 10, "1", ("1",)))
    assert vote.policy.vote == BY_COUNT.vote
    assert [(each.answer, each.weight) for each in vote.standings()] == [("1", 2.0), ("2", 1.0)]
    assert vote.stop_reason is None


def test_a_sample_without_an_answer_needs_no_score():
    vote = OnlineVote(Policy("asc", BetaWeighted(0.99)), Limits(8, 8, 100))
    vote.start()
    vote.count(Drawn(0, 10, None))
    assert vote.policy.vote == "asc"
    assert vote.standings() == []
    assert margin([]) == 0.0


def test_the_best_sample_of_the_winner_is_shown():
    vote = OnlineVote(Policy("asc", Fixed(4, maximum=4)), Limits(4, 4, 100))
    vote.start()
    for index, (answer, score) in enumerate([("1", 0.4), ("2", 0.9), ("1", 0.7), (None, 0.99)]):
        vote.count(Drawn(index, 10, answer, ("1",) if index == 2 else (), score))
    first, second = vote.standings()
    assert (first.answer, first.indices, first.share) == ("1", (0, 2), pytest.approx(0.55))
    assert vote.best(first.indices) == 2
    assert vote.best() == 3  # if no sample stated an answer
    assert margin([first, second]) == pytest.approx(0.1)


def test_after_the_deadline_finished_samples_count():
    vote = OnlineVote(Policy("sc", Fixed(8)), Limits(8, 4, 100))
    vote.start()
    vote.close(StopReason.DEADLINE)
    vote.count(Drawn(2, 10, "7"))
    assert (vote.stop_reason, vote.num_counted, vote.standings()[0].answer) == (StopReason.DEADLINE, 1, "7")
    assert not vote.start()


def test_limits_that_allow_nothing_are_refused():
    with pytest.raises(ValueError, match="max_samples=0"):
        Limits(0, 1, 10)
    with pytest.raises(ValueError, match="no room for one of 10"):
        Limits(1, 1, 10, max_tokens=9)
    with pytest.raises(ValueError, match="learned for 8 samples, but max_samples=9"):
        fitted(POLICIES["gain"], 9)
    assert fitted(POLICIES["gain"], 4) is POLICIES["gain"]
    assert fitted(Policy("sc", Beta(0.9, minimum=6)), 4).rule == Beta(0.9, minimum=4, maximum=4)


@pytest.mark.parametrize("seed", range(30))
def test_growing_classes_are_those_of_all_answers_at_every_moment(seed):
    """Equality that is not transitive, as with 5 cm = 5 = 5 m: each text equals its neighbours."""
    generator = random.Random(seed)
    answers = [generator.choice([None, *map(str, range(9))]) for _ in range(12)]

    def equal(one, other):
        return abs(int(one) - int(other)) <= 1

    growing = GrowingClasses()
    for count, answer in enumerate(answers, start=1):
        equal_to = () if answer is None else [text for text in growing.texts if equal(text, answer)]
        growing.add(answer, equal_to)
        expected = [None if each is None else each for each in answers[:count]]
        classes = growing.classes
        by_text = dict(zip(expected, classes, strict=True))
        naive = naive_classes([text for text in dict.fromkeys(expected) if text is not None], equal)
        assert all((by_text[one] == by_text[other]) == (naive[one] == naive[other]) for one in naive for other in naive)


def naive_classes(texts, equal):
    """The class of each text by relaxation."""
    numbers = dict.fromkeys(texts)
    numbers = {text: index for index, text in enumerate(numbers)}
    for _ in texts:
        for one in texts:
            for other in texts:
                if equal(one, other):
                    numbers[one] = numbers[other] = min(numbers[one], numbers[other])
    return numbers


def test_growing_classes_agree_with_those_of_mathematics():
    answers = ["0.5", "\\frac{1}{2}", None, "3", "1/2", "three", "4"]
    growing = GrowingClasses()
    from algorithms.answers.equivalence import equivalent

    for answer in answers:
        growing.add(answer, () if answer is None else [text for text in growing.texts if equivalent(text, answer)])
    assert growing.classes == answer_classes(answers)
