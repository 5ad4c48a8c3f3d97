"""When a merge is faithful: one case for each rule, and the refinement that asks for merges."""

import dataclasses

import pytest

from algorithms.chains import Chain, answer_step
from algorithms.refinement.merge_prompt import line_end, merge_prompt, merged_step
from algorithms.refinement.merging import RULES, Merge, refusal
from algorithms.refinement.outcomes import MergeAttempt
from algorithms.refinement.policy import Policy
from algorithms.refinement.refine import refine
from algorithms.refinement.requests import MergeReply, MergeRequest, ScoreRequest

QUESTION = "4 of 40 children play chess. 3/4 of the others play football. How many play football?"
STEPS = ("40-4=36 children do not play chess.", "36*3/4=27 of them play football.", "So 27 is the answer.")


def merge(text, left=0, steps=STEPS, answer="27", question=QUESTION):
    chain = Chain(question, steps, answer)
    stated = answer_step(Chain("", steps, answer)) if answer else None
    return Merge(
        text, steps[left], steps[left + 1], "\n", chain, steps[:left], steps[left + 2 :], stated in (left, left + 1)
    )


FAITHFUL = "(40-4)*3/4=27 of the children play football."


@pytest.mark.parametrize(
    ("rule", "case"),
    [
        (None, merge(FAITHFUL)),
        ("empty", merge("")),
        ("not_shorter", merge(" ".join(STEPS[:2]) + " And so on.")),
        ("several_lines", merge("(40-4)*3/4=27\nof them play football.")),
        ("unbalanced", merge("\\((40-4)*3/4=27 play football.")),
        ("other_words", merge("(40-4)*3/4=27 Kinder spielen also Fussball.")),
        ("answer_changed", merge("So 36*3/4 of them play football.", left=1)),
        ("answer_changed", merge("24 + 40 = 64.", steps=("24 + 40 = 64 $.", "#### 64"), answer="64", question="40")),
        ("fact_lost", merge("36 of the 40 children do not play chess, 4 do.")),
        ("number_lost", merge("36*3/4=27 of them play football.", steps=(*STEPS[:2], "So we are done: 27."))),
        ("number_invented", merge("(40-4)*3/4=27, and 13 play football.")),
        ("unexplained", merge("40, 4, 36*3/4=27 of them play football.")),
        ("claim_false", merge("(40-4)*3/4=27, 40-4=27 play football.")),
    ],
)  # fmt: skip
def test_the_first_rule_that_a_merge_breaks(rule, case):
    assert refusal(case) == rule


def test_every_rule_has_a_case():
    cases = test_the_first_rule_that_a_merge_breaks.pytestmark[0].args[1]
    assert {rule for rule, _ in cases} == {None, *RULES}


def test_a_merge_of_steps_that_say_the_same_in_chinese_is_judged_by_its_words():
    steps = ("我们 有 40-4=36 个 孩子", "其中 36*3/4=27 个 孩子 踢足球", "答案 是 27")
    assert refusal(merge("(40-4)*3/4=27 个 孩子 踢足球", steps=steps)) is None
    assert refusal(merge("(40-4)*3/4=27 of the children", steps=steps)) == "other_words"


MERGING = Policy(t1=0.95, scope="completion", ask_merger=True, separator=" ", unmerged="stop")


def drive(chain, policy, ppl_of, merges):
    """The refinement, and what was asked for: pairs of steps, or the number of variants."""
    generator, reply, asked = refine(chain, policy), None, []
    while True:
        try:
            request = generator.send(reply)
        except StopIteration as stop:
            return stop.value, asked
        if isinstance(request, MergeRequest):
            asked.append((request.first, request.second))
            reply = MergeReply(merges[request.first, request.second])
        else:
            assert isinstance(request, ScoreRequest)
            asked.append(len(request.variants))
            reply = [ppl_of(variant.text.removeprefix(chain.question).strip()) for variant in request.variants]


def test_a_step_that_is_used_may_be_merged_but_not_removed():
    # Perplexity would rather have the first step gone, 5 < 0.95 * 10, but 36 is used.
    ppls = {
        " ".join(STEPS): 10.0,
        " ".join(STEPS[1:]): 5.0,
        f"{STEPS[0]} {STEPS[2]}": 20.0,
        f"{FAITHFUL} {STEPS[2]}": 11.0,
    }
    merges = {STEPS[:2]: FAITHFUL, (FAITHFUL, STEPS[2]): ""}
    chain = Chain(QUESTION, STEPS, "27")
    result, asked = drive(chain, MERGING, lambda text: ppls.get(text, 12.0), merges)
    assert result.steps == (FAITHFUL, STEPS[2])
    assert asked == [3, STEPS[:2], 2, 2, (FAITHFUL, STEPS[2])]
    assert result.merges == (MergeAttempt(0, "accepted", FAITHFUL), MergeAttempt(0, "empty", ""))
    assert result.stopped == "nothing_removable"


def test_a_merge_that_raises_perplexity_above_t2_is_refused_and_never_asked_for_again():
    ppls = {
        " ".join(STEPS): 10.0,
        " ".join(STEPS[1:]): 11.0,
        f"{STEPS[0]} {STEPS[2]}": 11.5,
        f"{FAITHFUL} {STEPS[2]}": 12.1,
    }
    policy = dataclasses.replace(MERGING, unmerged="keep", keep_used=False)
    merges = {STEPS[:2]: FAITHFUL, STEPS[1:]: "nothing here"}
    result, asked = drive(Chain(QUESTION, STEPS, "27"), policy, ppls.__getitem__, merges)
    assert asked == [3, STEPS[:2], 2, STEPS[1:]]  # the second step is due too, and its merge with the first was tried
    assert [attempt.outcome for attempt in result.merges] == ["perplexity", "other_words"]
    assert (result.steps, result.ppl_refined, result.stopped) == (STEPS, 10.0, "nothing_removable")


def test_one_step_is_left_after_the_last_merge():
    steps = ("40-4=36 children.", "36*3/4=27 children.")
    merged = "(40-4)*3/4=27 children."
    ppls = {" ".join(steps): 10.0, steps[1]: 10.0, merged: 9.0}
    result, _ = drive(Chain(QUESTION, steps, "27"), MERGING, ppls.__getitem__, {steps: merged})
    assert (result.steps, result.stopped, result.ppl_refined) == ((merged,), "one_step", 9.0)


@pytest.mark.parametrize("is_chat", [True, False])
def test_the_prompt_ends_with_the_two_steps(is_chat):
    prompt = merge_prompt(MergeRequest("How many?", "Step a.", "Step b."), is_chat=is_chat)
    text = prompt[0][1] if is_chat else prompt
    assert text.endswith("Question: How many?\nStep 1: Step a.\nStep 2: Step b.\nMerged step:")
    assert isinstance(prompt, tuple) is is_chat


def test_braces_and_line_ends_of_a_step_stay():
    request = MergeRequest("{q}", "\\frac{1}{2}", "a\nb")
    assert "Step 1: \\frac{1}{2}\nStep 2: a\nb\n" in merge_prompt(request, is_chat=False)
    assert line_end(request) == "\n\n"
    assert line_end(MergeRequest("a\nb", "c", "d")) == "\n"


@pytest.mark.parametrize(
    "reply",
    ["1+1=2.", " 1+1=2.\n", "Merged step: 1+1=2.", "**Merged step:** 1+1=2.", '"1+1=2."', "```\n1+1=2.\n```",
     "The merged step is: 1+1=2."],
)  # fmt: skip
def test_what_models_put_around_a_merged_step_goes(reply):
    assert merged_step(reply) == "1+1=2."
