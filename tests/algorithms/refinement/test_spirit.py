"""The algorithm against tables of numbers: each chain is written as one letter a step."""

import dataclasses
import math

import pytest

from algorithms.chains import Chain
from algorithms.refinement.outcomes import Edit, Refinement
from algorithms.refinement.policy import RECIPES, Policy
from algorithms.refinement.refine import refine
from algorithms.refinement.requests import MergeReply, MergeRequest, ScoreRequest

DIGEST = RECIPES["digest"]
DROP = Policy(t1=0.95, scope="completion", unmerged="drop", protect_answer=False, append_answer=False, separator=" ")


def solve(chain, policy, table, merges=None):
    """Drive a refinement: perplexities from `table` by the steps' letters, merges by the two steps."""
    generator = refine(chain, policy)
    asked, reply = [], None
    while True:
        try:
            request = generator.send(reply)
        except StopIteration as stop:
            return stop.value, asked
        if isinstance(request, MergeRequest):
            asked.append(("merge", request.first, request.second))
            text = (merges or {}).get((request.first, request.second))
            reply = MergeReply(problem="endpoint_down") if text is None else MergeReply(text)
        else:
            assert isinstance(request, ScoreRequest)
            letters = [variant.text.removeprefix(chain.question).replace(" ", "") for variant in request.variants]
            asked.append(tuple(letters))
            reply = [table[each] for each in letters]


def chain(letters, answer="zz"):
    return Chain("Q:", tuple(letters), answer)


def test_the_cheapest_step_goes_each_round_until_the_rest_is_critical():
    table = {"abc": 10, "bc": 9, "ac": 8, "ab": 20, "c": 9.7, "a": 9.9}
    result, asked = solve(chain("abc"), DROP, table)
    # Round 1: b goes, 8 < 0.95 * 10. Round 2: without a 9.7 > 1.2 * 8 = 9.6, so both are critical.
    assert asked == [("abc", "bc", "ac", "ab"), ("ac", "c", "a")]
    assert result == Refinement(("a", "c"), (), (Edit("remove", 1, "b", "", 10, 8, 0.8),), 10, 8, "all_critical")


def test_the_lowest_index_wins_a_tie_and_one_step_is_left():
    result, asked = solve(chain("ab"), DROP, {"ab": 10, "b": 5, "a": 5})
    assert result.steps == ("b",)
    assert result.stopped == "one_step"
    assert len(asked) == 1  # the perplexity of what is left is known


def test_a_chain_of_one_step_is_scored_and_left_alone():
    result, asked = solve(chain("a"), DROP, {"a": 3})
    assert result == Refinement(("a",), (), (), 3, 3, "one_step")
    assert asked == [("a",)]


def test_the_original_reference_does_not_compound():
    # With the current reference each removal may cost 20 %: 10 -> 11.9 -> 14. With the original only 12 is allowed.
    table = {"abc": 10, "bc": 11.9, "ac": 13, "ab": 13, "c": 14, "b": 15}
    assert solve(chain("abc"), DROP, table)[0].steps == ("c",)
    original = dataclasses.replace(DROP, reference="original")
    assert solve(chain("abc"), original, table)[0].steps == ("b", "c")


@pytest.mark.parametrize(
    ("unmerged", "steps", "stopped"),
    [("drop", ("b",), "one_step"), ("stop", ("a", "b"), "no_merge"), ("keep", ("a", "b"), "nothing_removable")],
)
def test_between_the_thresholds_the_policy_decides(unmerged, steps, stopped):
    result, _ = solve(chain("ab"), dataclasses.replace(DROP, unmerged=unmerged), {"ab": 10, "b": 10, "a": 10.5})
    assert (result.steps, result.stopped) == (steps, stopped)


def test_the_answer_step_is_neither_removed_nor_scored_without():
    result, asked = solve(Chain("Q:", ("a", "7"), "7"), Policy(scope="completion", separator=" "), {"a7": 10, "7": 4})
    assert asked == [("a7", "7")]
    assert (result.steps, result.stopped) == (("7",), "one_step")


def test_an_answer_that_no_step_states_is_scored_behind_the_chain():
    request = next(refine(Chain("Q", ("ab", "c"), "99"), Policy(scope="completion")))
    assert [(v.text, v.text[slice(*v.span)]) for v in request.variants] == [
        ("Q\nab\nc\n99", "ab\nc\n99"),
        ("Q\nc\n99", "c\n99"),
        ("Q\nab\n99", "ab\n99"),
    ]


@pytest.mark.parametrize(
    ("scope", "spans"),
    [
        ("completion", ["a b 7", "b 7", "a 7"]),
        ("answer", ["7", "7", "7"]),
        ("full", [None, None, None]),
        ("suffix", ["a b 7", "b 7", "b 7", "7", "7"]),
    ],
)
def test_the_scope_says_which_characters_count(scope, spans):
    request = next(refine(Chain("Q", ("a", "b", "7"), "7"), Policy(scope=scope, separator=" ")))
    assert [v.span and v.text[slice(*v.span)] for v in request.variants] == spans


def test_the_suffix_scope_compares_the_same_text_with_and_without_the_step():
    generator = refine(Chain("Q", ("a", "b", "7"), "7"), Policy(t1=0.95, scope="suffix", separator=" "))
    request = next(generator)
    assert [v.text for v in request.variants] == ["Q a b 7", "Q b 7", "Q a b 7", "Q a 7", "Q a b 7"]
    # a: 6 / 5 keeps, b: 4 / 8 goes; then what is left is scored again in its own scope.
    assert next_texts(generator.send([9.0, 6.0, 5.0, 4.0, 8.0])) == ["Q a 7", "Q 7", "Q a 7"]
    with pytest.raises(StopIteration) as stop:
        generator.send([7.0, 9.0, 5.0])
    assert stop.value.value == Refinement(("a", "7"), (), (Edit("remove", 1, "b", "", 8.0, 4.0, 0.5),), 9.0, 7.0,
                                          "all_critical")  # fmt: skip


def next_texts(request):
    return [variant.text for variant in request.variants]


MERGING = Policy(t1=0.95, t2=1.2, scope="completion", ask_merger=True, separator=" ", unmerged="stop")


def test_a_merge_takes_the_next_neighbour_and_is_scored():
    steps = ("40-4=36", "36*3/4=27", "so 27")
    table = {"40-4=3636*3/4=27so27": 10, "36*3/4=27so27": 11, "40-4=36so27": 11.5, "(40-4)*3/4=27so27": 10.5,
             "so27": 20}  # fmt: skip
    merges = {("40-4=36", "36*3/4=27"): "(40-4)*3/4=27"}
    result, asked = solve(Chain("Q:", steps, "27"), MERGING, table, merges)
    assert result.steps == ("(40-4)*3/4=27", "so 27")
    assert result.edits == (Edit("merge", 0, "40-4=36 36*3/4=27", "(40-4)*3/4=27", 10, 10.5, 1.05),)
    assert asked[1] == ("merge", "40-4=36", "36*3/4=27")


def test_a_merge_with_the_original_reference_is_compared_with_the_original_chain():
    # b goes at 9 < 0.95 * 10. Then c is due, and its merge may cost 12: t2 times the original, not times 9.
    table = {"abcd7": 10, "bcd7": 20, "acd7": 9, "abd7": 20, "abc7": 20, "cd7": 20, "ad7": 11, "ac7": 20, "ax7": 11.9,
             "x7": 20, "a7": 20}  # fmt: skip
    policy = dataclasses.replace(MERGING, reference="original")
    result, _ = solve(Chain("Q:", ("a", "b", "c", "d", "7"), "7"), policy, table, {("c", "d"): "x"})
    assert result.edits[1] == Edit("merge", 1, "c d", "x", 9, 11.9, 1.19)


def test_a_merge_in_the_suffix_scope_scores_what_follows_it():
    policy = dataclasses.replace(MERGING, scope="suffix")
    generator = refine(Chain("Q", ("aa", "bb", "c", "7"), "7"), policy)
    next(generator)
    # Without aa what follows costs as much, so aa is due. Without bb or c it costs more.
    asked = generator.send([9.0, 5.0, 5.0, 9.0, 5.0, 9.0, 5.0])
    assert asked == MergeRequest("Q", "aa", "bb")
    request = generator.send(MergeReply("aa"))
    assert [(v.text, v.text[slice(*v.span)]) for v in request.variants] == [("Q aa bb c 7", "c 7"), ("Q aa c 7", "c 7")]
    assert next_texts(generator.send([4.0, 4.4]))[0] == "Q aa c 7"
    with pytest.raises(StopIteration) as stop:
        generator.send([8.0, 9.0, 5.0, 9.0, 5.0])
    assert stop.value.value.edits == (Edit("merge", 0, "aa bb", "aa", 4.0, 4.4, pytest.approx(1.1)),)
    assert (stop.value.value.ppl_original, stop.value.value.ppl_refined) == (9.0, 8.0)


def test_no_merge_is_asked_for_where_nothing_follows_it_in_the_suffix_scope():
    policy = dataclasses.replace(MERGING, scope="suffix", unmerged="stop")
    generator = refine(Chain("Q", ("a", "7"), "7"), policy)
    next(generator)
    with pytest.raises(StopIteration) as stop:
        generator.send([9.0, 5.0, 5.0])
    assert stop.value.value.stopped == "no_merge"


def test_the_answer_scope_ends_with_the_step_that_states_the_answer():
    chain = Chain("Q", ("a", "is 7", "Check: b"), "7", " ")
    request = next(refine(chain, Policy(scope="answer")))
    assert [v.text[slice(*v.span)] for v in request.variants] == ["is 7", "is 7", "is 7"]
    assert [v.text for v in request.variants] == ["Q a is 7 Check: b", "Q is 7 Check: b", "Q a is 7"]


def test_a_step_whose_removal_unbalances_the_chain_stays():
    policy = Policy(scope="completion", unmerged="drop", t1=9, t2=9)
    halves = Chain("Q", (r"\begin{align*} x", "a", r"\end{align*}", "7"), "7")
    [first] = [next(refine(halves, policy)).variants]
    assert [v.text.count("a\n") for v in first] == [1, 0]  # only "a" may go
    broken = Chain("Q", (r"\begin{align*} x", "a", "7"), "7")  # unbalanced from the start: nothing to keep
    assert len(next(refine(broken, policy)).variants) == 3


@pytest.mark.parametrize(
    ("removed", "text"), [("a", "b\n\nc d"), ("b", "a\n\nc d"), ("c", "a b\n\nd"), ("none", "a b\n\nc d")]
)
def test_of_the_gaps_around_a_removed_step_the_wider_stays(removed, text):
    chain = Chain("Q: ", ("a", "b", "c", "d"), "d", " ", (" ", "\n\n", " "))
    generator = refine(chain, Policy(t1=1, scope="completion"))
    request = next(generator)
    ppls = [10.0] + [1.0 if step == removed else 99.0 for step in "abc"]
    try:
        generator.send(ppls)
        generator.send([1.0, 99.0, 99.0])
    except StopIteration as stop:
        refined = dataclasses.replace(chain, steps=stop.value.steps, separators=stop.value.separators)
    assert refined.text == text
    assert request.variants[0].text == "Q:  a b\n\nc d"


@pytest.mark.parametrize(
    "reply",
    [
        None,  # the merger failed
        "x" * 30,  # not shorter than the two
        " ",  # nothing
        "so 28",  # another answer
    ],
)
def test_a_merge_that_is_not_faithful_is_refused_and_the_policy_decides(reply):
    table = {"ab36+1=37": 10, "b36+1=37": 10, "a36+1=37": 10.2}
    merges = {("b", "36+1=37"): reply, ("a", "b"): reply if reply != "so 28" else None}
    result, _ = solve(Chain("Q:", ("a", "b", "36+1=37"), "37"), MERGING, table, merges)
    assert (result.steps, result.stopped) == (("a", "b", "36+1=37"), "no_merge")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"t1": 1.3, "t2": 1.2}, "t1=1.3 and t2=1.2"),
        ({"t1": 0.0}, "0 < t1"),
        ({"t2": math.inf}, "t2=inf"),
        ({"scope": "answer", "protect_answer": False}, "needs protect_answer"),
        ({"scope": "suffix", "reference": "original"}, "reference must be current"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Policy(**settings)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least one step"):
        next(refine(Chain("Q", (), "1"), Policy()))
