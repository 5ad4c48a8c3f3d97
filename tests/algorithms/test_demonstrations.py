"""SPIRIT-FS against tables written by hand: which step goes, when it ends, what is scored."""

import math
import random

import pytest

from algorithms.chains import Chain
from algorithms.demonstrations import DemoPolicy, PromptScore, prompt_style, shorten, total_perplexity
from algorithms.refinement.requests import MergeReply, MergeRequest

DEMOS = [Chain(f"q{n}", ("a", "b", "c", "so it is 5"), "5") for n in (1, 2)]
CALIBRATION = [Chain("k1", ("a", "so it is 7"), "7"), Chain("k2", ("a", "b", "so it is 8"), "8")]
ALIGNED = [Chain("k1", ("u", "v", "w", "so it is 7"), "7")]


def letters(prompt):
    """The steps of the first demonstration in a prompt, without the last one: "abc"."""
    return prompt.split("A: ")[1].split("so it is")[0].replace("\n", "")


def play(generator, table, merger=None):
    """Answer from a table: letters of the prompt -> its perplexity. Returns the path and what each round asked for."""
    rounds = []
    replies = None
    while True:
        try:
            asked = generator.send(replies)
        except StopIteration as stop:
            return stop.value, rounds
        if isinstance(asked[0], MergeRequest):
            rounds.append([(each.first, each.second) for each in asked])
            replies = [
                MergeReply(text) if text is not None else MergeReply(problem="cut") for text in map(merger, asked)
            ]
        else:
            rounds.append([letters(each.prompt) for each in asked])
            replies = [PromptScore((table[letters(each.prompt)],), (1,), len(each.prompt)) for each in asked]


def removed(path):
    return [stage.origins for stage in path.stages[1:]]


TABLE = {"abc": 10.0, "bc": 9.0, "ac": 8.0, "ab": 11.0, "a": 9.5, "c": 8.5, "b": 20.0}


def test_the_step_with_the_lowest_perplexity_goes_from_all_demonstrations_first():
    path, rounds = play(shorten(DEMOS, CALIBRATION, DemoPolicy(target_steps=2)), TABLE)
    assert rounds == [["abc", "bc", "ac", "ab"], ["c", "a"]]  # the last step states the answer and is never tried
    assert [stage.num_steps for stage in path.stages] == [4, 3, 2]
    assert [stage.perplexity for stage in path.stages] == pytest.approx([10.0, 8.0, 8.5])
    assert removed(path) == [(1,), (0,)]
    assert [index for index, _ in path.stages[1].candidates] == [0, 1, 2]
    assert [chain.steps for chain in path.demonstrations] == [("c", "so it is 5")] * 2
    assert path.stopped == "target"


def test_a_tie_goes_to_the_first_step():
    path, _ = play(shorten(DEMOS, CALIBRATION, DemoPolicy(target_steps=3)), dict.fromkeys(TABLE, 3.0))
    assert removed(path) == [(0,)]


def test_a_threshold_ends_the_path_before_perplexity_passes_it():
    # 0.85 * 10 = 8.5: removing b gives 8.0, then removing a gives 8.5, which is not above.
    path, _ = play(shorten(DEMOS, CALIBRATION, DemoPolicy(t2=0.85)), TABLE | {"": 8.6})
    assert (removed(path), path.stopped) == ([(1,), (0,)], "threshold")
    path, _ = play(shorten(DEMOS, CALIBRATION, DemoPolicy(target_steps=1, t2=0.79)), TABLE)
    assert (removed(path), path.stopped) == ([], "threshold")
    path, _ = play(shorten(DEMOS, CALIBRATION, DemoPolicy(t2=100.0)), TABLE | {"": 8.6})
    assert (len(path.stages), path.stopped) == (4, "nothing_removable")


def test_every_step_that_states_an_answer_stays():
    demos = [DEMOS[0], Chain("q2", ("a", "the answer is 6", "c", "that was all"), "6")]
    path, rounds = play(shorten(demos, CALIBRATION, DemoPolicy(target_steps=2)), TABLE)
    assert rounds == [["abc", "bc", "ab"], ["b"]]
    assert removed(path) == [(0,), (2,)]


def test_no_half_of_a_formula_is_left():
    demos = [Chain("q", ("a", "\\begin{align}", "x \\end{align}", "so it is 5"), "5")]
    _, rounds = play(shorten(demos, CALIBRATION, DemoPolicy(target_steps=3)), _Any(4.0))
    assert len(rounds[0]) == 2  # the full prompt, and the one without the first step


class _Any(dict):
    """A table with one perplexity for everything."""

    def __init__(self, value):
        self.value = value

    def __getitem__(self, key):
        return self.value


def test_what_is_scored_is_the_solution_below_the_demonstrations_and_the_question():
    [full, *_] = next(shorten(DEMOS[:1], CALIBRATION, DemoPolicy(target_steps=3)))
    assert full.prompt == "Q: q1\nA: a\nb\nc\nso it is 5\n\n"
    assert [variant.text for variant in full.request.variants] == [
        full.prompt + "Q: k1\nA: a\nso it is 7",
        full.prompt + "Q: k2\nA: a\nb\nso it is 8",
    ]
    assert [variant.text[slice(*variant.span)] for variant in full.request.variants] == [
        " a\nso it is 7",
        " a\nb\nso it is 8",
    ]


def test_a_template_that_ends_in_white_space_needs_no_space_and_an_unstated_answer_is_appended():
    chain = Chain("q", ("a", "b"), "5", joiner=" ")
    assert prompt_style([chain], "{question}\n").prompt("next") == "q\na b 5\n\nnext\n"


def test_the_aggregates():
    score = PromptScore((2.0, 8.0), (3, 1), 9)
    assert total_perplexity(score, "tokens") == pytest.approx(2 ** ((3 * 1 + 1 * 3) / 4))  # 2 = 2^1, 8 = 2^3
    assert total_perplexity(score, "rows") == 5.0
    assert total_perplexity(PromptScore((2.0, math.inf), (3, 1), 9), "tokens") == math.inf


def test_the_aggregate_decides():
    # Without a: 2.0 over 9 tokens and 50 over 1. Without b: 4.0 both. By tokens a goes, by rows b does.
    scores = {"abc": (9.0, 9.0), "bc": (2.0, 50.0), "ac": (4.0, 4.0), "ab": (60.0, 60.0)}
    for aggregate, expected in (("tokens", 0), ("rows", 1)):
        generator = shorten(DEMOS, CALIBRATION, DemoPolicy(target_steps=3, aggregate=aggregate))
        asked = next(generator)
        with pytest.raises(StopIteration) as stop:
            generator.send([PromptScore(scores[letters(each.prompt)], (9, 1), 5) for each in asked])
        assert stop.value.value.stages[1].index == expected


def test_calibration_solutions_lose_the_step_too():
    policy = DemoPolicy(target_steps=2, calibration_loses_step=True)
    asked = next(shorten(DEMOS, ALIGNED, policy))
    assert [each.request.variants[0].text.split("k1\nA: ")[1].split("\nso")[0].split("\n") for each in asked] == [
        ["u", "v", "w"],
        ["v", "w"],
        ["u", "w"],
        ["u", "v"],
    ]
    path, _ = play(shorten(DEMOS, ALIGNED, policy), TABLE)
    assert removed(path) == [(1,), (0,)]


def test_the_control_removes_by_chance_and_asks_for_no_other_prompt():
    def control(seed):
        return play(shorten(DEMOS, CALIBRATION, DemoPolicy(target_steps=2), random.Random(seed)), TABLE)

    path, rounds = control(3)
    assert [len(asked) for asked in rounds] == [2, 1]  # the full prompt and one step; one step
    assert control(3) == (path, rounds)
    assert len({tuple(removed(control(seed)[0])) for seed in range(20)}) > 3
    assert all((3,) not in removed(control(seed)[0]) for seed in range(20))


def test_a_merge_that_beats_removal_is_taken_in_all_demonstrations():
    demos = [Chain(f"q{n}", ("first a", "then b", "then c", "so it is 5"), "5") for n in (1, 2)]
    table = {"first athen bthen c": 10.0, "then bthen c": 9.5, "first athen c": 8.0, "first athen b": 11.0}
    policy = DemoPolicy(target_steps=3, ask_merger=True)
    path, rounds = play(
        shorten(demos, CALIBRATION, policy), table | {"first athen b, c": 7.0}, lambda asked: "then b, c"
    )
    assert rounds[1:] == [[("then b", "then c")] * 2, ["first athen b, c"]]
    stage = path.stages[1]
    assert (stage.action, stage.index, stage.origins, stage.perplexity) == ("merge", 1, (1, 2), pytest.approx(7.0))
    assert [chain.steps for chain in path.demonstrations] == [("first a", "then b, c", "so it is 5")] * 2


def test_a_merge_with_a_higher_perplexity_gives_way_to_the_previous_neighbour_and_then_to_removal():
    demos = [Chain(f"q{n}", ("first a", "then b", "then c", "so it is 5"), "5") for n in (1, 2)]
    table = {"first athen bthen c": 10.0, "then bthen c": 9.5, "first athen c": 8.0, "first athen b": 11.0}
    texts = {"then b": "then b, c", "first a": "first a, b"}
    policy = DemoPolicy(target_steps=3, ask_merger=True)
    for previous, expected in ((7.9, ("merge", 0)), (8.0, ("remove", 1))):  # a merge must be lower than removal
        path, rounds = play(
            shorten(demos, CALIBRATION, policy),
            table | {"first athen b, c": 8.5, "first a, bthen c": previous},
            lambda asked: texts[asked.first],
        )
        assert len(rounds) == 5
        assert (path.stages[1].action, path.stages[1].index) == expected


@pytest.mark.parametrize("bad", [None, "", "this text is longer than both of the steps together"])
def test_one_unfaithful_merge_refuses_the_merges_of_all(bad):
    demos = [Chain(f"q{n}", ("first a", "then b", "then c", "so it is 5"), "5") for n in (1, 2)]
    table = {"first athen bthen c": 10.0, "then bthen c": 9.5, "first athen c": 8.0, "first athen b": 11.0}
    policy = DemoPolicy(target_steps=3, ask_merger=True)
    path, rounds = play(
        shorten(demos, CALIBRATION, policy), table, lambda asked: bad if asked.question == "q2" else "short"
    )
    assert len(rounds) == 3  # both neighbours asked for, no merged prompt scored
    assert (path.stages[1].action, path.stages[1].index) == ("remove", 1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, "either a number of steps or a threshold t2 must say when to stop"),
        ({"target_steps": 0}, "at least one step, got target_steps=0"),
        ({"t2": 0.0}, "t2 must be a positive number, got 0"),
    ],
)
def test_a_policy_without_an_end_is_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        DemoPolicy(**changes)


@pytest.mark.parametrize(
    ("demos", "calibration", "policy", "complaint"),
    [
        ([*DEMOS, Chain("q", ("a", "so it is 5"), "5")], CALIBRATION, {}, "the same number of steps, got 2, 4"),
        (DEMOS, CALIBRATION, {"calibration_loses_step": True}, "the same number of steps, got 2, 3, 4"),
        (DEMOS, CALIBRATION, {"target_steps": 4}, "have 4 steps, so target_steps must be lower, got 4"),
        (
            [Chain("q", ("the answer is 6", "a", "b"), "6")],
            CALIBRATION,
            {"target_steps": 1},
            "2 steps state answers and stay, so target_steps cannot be 1",
        ),
        (DEMOS, [], {}, "got 2 and 0"),
    ],
)
def test_what_cannot_be_shortened_is_refused(demos, calibration, policy, complaint):
    with pytest.raises(ValueError, match=complaint):
        next(shorten(demos, calibration, DemoPolicy(**{"target_steps": 2} | policy)))
