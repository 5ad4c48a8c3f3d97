"""Criteria that rate every step once, and the control."""

import dataclasses

import pytest

from algorithms.chains import Chain
from algorithms.refinement.outcomes import Edit
from algorithms.refinement.policy import Policy
from algorithms.refinement.refine import CRITERIA, refine, refine_with_control
from algorithms.refinement.requests import ScoreRequest

CHAIN = Chain("Q", ("aa", "bb", "cc", "dd", "is 7"), "7", " ")


def drive(generator, ppl_of):
    """The result, and the texts and scored spans of each request."""
    asked, reply = [], None
    while True:
        try:
            request = generator.send(reply)
        except StopIteration as stop:
            return stop.value, asked
        assert isinstance(request, ScoreRequest)
        asked.append([(each.text, each.text[slice(*each.span)]) for each in request.variants])
        reply = [ppl_of(text, span) for text, span in asked[-1]]


def test_pir_scores_the_answer_once_without_each_step_and_removes_those_below_t1():
    policy = Policy(criterion="pir", scope="answer", keep_used=False, t1=0.95)
    ppls = {"Q aa bb cc dd is 7": 10.0, "Q bb cc dd is 7": 9.0, "Q aa cc dd is 7": 12.0, "Q aa bb dd is 7": 5.0,
            "Q aa bb cc is 7": 9.6, "Q bb dd is 7": 4.0}  # fmt: skip
    result, asked = drive(refine(CHAIN, policy), lambda text, span: ppls[text])
    assert [len(each) for each in asked] == [5, 2]  # n scorings, then the result
    assert {span for each in asked for _, span in each} == {"is 7"}
    # Lowest first: cc at 0.5, then aa at 0.9; dd at 0.96 stays.
    assert result.edits == (Edit("remove", 2, "cc", "", None, None, 0.5), Edit("remove", 0, "aa", "", None, None, 0.9))
    assert (result.steps, result.ppl_original, result.ppl_refined) == (("bb", "dd", "is 7"), 10.0, 4.0)
    assert result.stopped == "rated_once"


def test_surprisal_reads_the_first_token_of_each_step_in_one_text():
    policy = Policy(criterion="surprisal", scope="completion", keep_used=False, remove_ratio=0.4)
    surprisals = {"a": 3.0, "b": 1.5, "c": 9.0, "d": 1.2}
    result, asked = drive(refine(CHAIN, policy), lambda text, span: surprisals.get(span, 8.0))
    assert len({text for text, _ in asked[0]}) == 1  # one forward
    assert [span for _, span in asked[0][1:]] == ["a", "b", "c", "d"]
    assert result.steps == ("aa", "cc", "is 7")  # 0.4 * 5 = 2 steps
    assert result.stopped == "ratio_reached"


def test_random_removes_the_wanted_share_and_depends_on_chain_and_seed_alone():
    policy = Policy(criterion="random", scope="completion", keep_used=False, remove_ratio=0.4)
    results = {seed: drive(refine(CHAIN, dataclasses.replace(policy, seed=seed)), lambda *_: 5.0) for seed in range(8)}
    assert all(len(result.steps) == 3 and result.steps[-1] == "is 7" for result, _ in results.values())
    assert len({result.steps for result, _ in results.values()}) > 2
    assert drive(refine(CHAIN, policy), lambda *_: 5.0) == results[0]
    assert [len(request) for request in results[0][1]] == [2]  # only what is left is scored


def test_the_share_is_of_the_steps_and_rounded():
    policy = Policy(criterion="random", scope="completion", remove_ratio=0.1)
    assert [policy.num_wanted(steps) for steps in (1, 4, 5, 14, 15, 16)] == [0, 0, 1, 1, 2, 2]


def test_the_guard_holds_for_every_criterion_and_after_every_removal():
    steps = ("2 + 3 = 5.", "So it is 5 in all.", "5 * 4 = 20.", "The answer is 20.")
    for criterion in CRITERIA:
        scope = "answer" if criterion == "pir" else "completion"
        policy = Policy(criterion=criterion, scope=scope, remove_ratio=0.9)
        result, _ = drive(refine(Chain("Q", steps, "20"), policy), lambda *_: 5.0)
        assert result.steps == (steps[0], *steps[2:])
        assert result.stopped == "nothing_removable"


def test_spirit_with_a_share_removes_whatever_it_costs():
    policy = Policy(scope="completion", keep_used=False, remove_ratio=0.6)
    # Each round costs more than t2 allows; the cheapest step goes, three of five.
    result, _ = drive(refine(CHAIN, policy), lambda text, _: 1000.0 / len(text) + text.count("aa"))
    assert (len(result.steps), result.stopped) == (2, "ratio_reached")


def test_the_control_removes_as_many_steps_at_random():
    policy = Policy(scope="completion", keep_used=False)
    lengths = lambda text, _: float(len(text))  # every removal lowers it  # noqa: E731
    (refinement, control), _ = drive(refine_with_control(CHAIN, policy), lengths)
    assert len(control.steps) == len(refinement.steps) == 1
    (refinement, control), asked = drive(refine_with_control(CHAIN, dataclasses.replace(policy, t1=0.01)), lengths)
    assert control == refinement
    assert len(asked) == 1  # nothing was removed, so there is nothing to compare


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"remove_ratio": 1.0}, "between 0 and 1, got 1"),
        ({"remove_ratio": 0.0}, "between 0 and 1, got 0"),
        ({"criterion": "surprisal", "scope": "completion"}, "'surprisal' has no threshold: set remove_ratio"),
        ({"criterion": "pir", "scope": "suffix"}, "scope must be answer, got 'suffix'"),
        ({"criterion": "pir", "scope": "answer", "ask_merger": True}, "only criterion 'spirit' with thresholds merges"),
        ({"ask_merger": True, "remove_ratio": 0.5}, "only criterion 'spirit' with thresholds merges"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Policy(**settings)
