"""SPIRIT-FS: shorten the demonstrations of a few-shot prompt, by the same step of all of them at once.

Stepwise Perplexity-Guided Refinement (arXiv 2502.13260, SPIRIT-FS) as a generator without I/O:

    shorten(demonstrations, calibration, policy) -> Generator[Round, Replies, Path]

Demonstrations are aligned: step j of each does the same. Each round removes every step j in turn from all
demonstrations, and asks how perplexing the calibration solutions are below each of these candidate prompts. The step
whose prompt has the lowest perplexity goes, until the prompt has `target_steps`, or until perplexity would exceed `t2`
times that of the full prompt. With a merger, the step is merged into its next neighbour instead, or into its previous
one, if that gives a lower perplexity than removing it.

What a round asks for is independent, so it comes as one tuple: a ScoreRequest for each candidate prompt, with a variant
for each calibration question below it. A scorer that shares prefixes reads the demonstrations once per candidate.
Candidates share little with each other, because the first demonstration already differs.

Our choices, where the digests of the paper are silent: the scored text is the calibration solution, reasoning and
answer; the steps that state answers stay; no removal leaves half of a formula or a code block behind; the random
control removes steps by chance and never merges.
"""

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from algorithms.chains import Chain, answer_step, merge_steps, solution_text, without_step
from algorithms.markup import is_balanced
from algorithms.prompts import QUESTION, PromptStyle
from algorithms.refinement.merging import MAX_SHOWN, merge_of, refusal
from algorithms.refinement.outcomes import MergeAttempt
from algorithms.refinement.requests import MergeReply, MergeRequest, ScoreRequest, Variant

TEMPLATE: Final = f"Q: {QUESTION}\nA:"
Aggregate: TypeAlias = Literal["tokens", "rows"]


@dataclass(frozen=True, slots=True)
class DemoPolicy:
    """The options. Raises ValueError if they say nowhere when to stop.

    `target_steps`: steps of a demonstration at the end. `t2`: the highest perplexity, as a ratio to that of the full
    prompt. `aggregate`: the exponential of the mean loss over all calibration `tokens`, or the arithmetic mean of the
    perplexities of all calibration `rows`. `calibration_loses_step`: the calibration solutions lose step j too.
    `ask_merger`: yield MergeRequests. `template`: the text of a question; solutions follow it.
    """

    target_steps: int | None = None
    t2: float | None = None
    aggregate: Aggregate = "tokens"
    calibration_loses_step: bool = False
    ask_merger: bool = False
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        if self.target_steps is None and self.t2 is None:
            raise ValueError("either a number of steps or a threshold t2 must say when to stop")
        if self.target_steps is not None and self.target_steps < 1:
            raise ValueError(f"a demonstration keeps at least one step, got target_steps={self.target_steps}")
        if self.t2 is not None and not 0 < self.t2 < math.inf:
            raise ValueError(f"t2 must be a positive number, got {self.t2:g}")


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """A request to score one candidate prompt: its text, and a variant for each calibration solution below it."""

    prompt: str
    request: ScoreRequest


@dataclass(frozen=True, slots=True)
class PromptScore:
    """The reply: for each variant its perplexity and its number of scored tokens; the tokens of the prompt itself."""

    perplexities: tuple[float, ...]
    num_scored: tuple[int, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One prompt on the path, and the edit that led to it.

    `index` is the step that went, in the prompt before; a merge replaces steps `index` and `index + 1`. `origins` are
    the numbers of the edited steps in the full prompt. `candidates` are the perplexities without each step that could
    have gone, by its number in the prompt before.
    """

    num_steps: int
    perplexity: float
    prompt_tokens: int
    action: Literal["remove", "merge"] | None = None
    index: int | None = None
    origins: tuple[int, ...] = ()
    candidates: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Path:
    """The result: the shortened demonstrations, and every prompt from the full one to theirs.

    `stopped` is the reason: target | threshold | nothing_removable. `merges` are those that were tried; if one of a
    round breaks a rule, none of the round is taken.
    """

    demonstrations: tuple[Chain, ...]
    stages: tuple[Stage, ...]
    stopped: str
    merges: tuple[MergeAttempt, ...] = ()


Round: TypeAlias = tuple[PromptRequest, ...] | tuple[MergeRequest, ...]
Replies: TypeAlias = Sequence[PromptScore] | Sequence[MergeReply] | None
Shortening: TypeAlias = Generator[Round, Replies, Path]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A candidate prompt: its demonstrations, what is scored below them, and the history of each aligned step."""

    demonstrations: tuple[Chain, ...]
    calibration: tuple[Chain, ...]
    origins: tuple[tuple[int, ...], ...]  # the numbers of a step in the full prompt; several if it was merged
    is_fixed: tuple[bool, ...]


def shorten(
    demonstrations: Sequence[Chain],
    calibration: Sequence[Chain],
    policy: DemoPolicy,
    chance: random.Random | None = None,
) -> Shortening:
    """Shorten aligned demonstrations. Send the replies to each round to get the next. Returns the Path.

    `chance` makes it the random control: it chooses each step to remove, and only that prompt is scored. Raises
    ValueError if the demonstrations are not aligned, or cannot be shortened to the target.
    """
    prompt = _full_prompt(demonstrations, calibration, policy)
    candidates = _candidates(prompt, policy, chance)
    replies = yield from _scores([prompt, *(_without(prompt, index, policy) for index in candidates)], policy)
    full, *scores = replies
    reference = total_perplexity(full, policy.aggregate)
    stages = [Stage(len(prompt.origins), reference, full.prompt_tokens)]
    attempts: list[MergeAttempt] = []
    stopped = None
    while candidates and stopped is None:
        ppls = [total_perplexity(score, policy.aggregate) for score in scores]
        chosen = min(range(len(candidates)), key=ppls.__getitem__)  # a tie goes to the lowest index
        index, score = candidates[chosen], scores[chosen]
        stage = Stage(
            len(prompt.origins) - 1,
            ppls[chosen],
            score.prompt_tokens,
            "remove",
            index,
            prompt.origins[index],
            tuple(zip(candidates, ppls, strict=True)),
        )
        shorter = _without(prompt, index, policy)
        if policy.ask_merger:
            merged = yield from _try_merge(prompt, stage, policy, attempts)
            stage, shorter = merged or (stage, shorter)
        if policy.t2 is not None and not stage.perplexity <= policy.t2 * reference:
            stopped = "threshold"
            break
        stages.append(stage)
        prompt = shorter
        candidates = _candidates(prompt, policy, chance)
        if candidates:
            scores = yield from _scores([_without(prompt, index, policy) for index in candidates], policy)
    if stopped is None:
        stopped = "target" if len(prompt.origins) == policy.target_steps else "nothing_removable"
    return Path(prompt.demonstrations, tuple(stages), stopped, tuple(attempts))


def total_perplexity(score: PromptScore, aggregate: Aggregate) -> float:
    """One perplexity for all calibration solutions below a prompt.

    A perplexity is the exponential of a mean loss, so its logarithm times its tokens gives back the sum of losses.
    """
    if aggregate == "rows":
        return math.fsum(score.perplexities) / len(score.perplexities)
    counted = list(zip(score.perplexities, score.num_scored, strict=True))
    if any(math.isinf(ppl) for ppl, _ in counted):
        return math.inf
    mean = math.fsum(num * math.log(ppl) for ppl, num in counted) / sum(score.num_scored)
    return math.exp(mean)


def prompt_style(demonstrations: Sequence[Chain], template: str) -> PromptStyle:
    """The few-shot prompt of these demonstrations, as `jobs.sample` builds it."""
    shots = tuple((chain.question, continuation(chain, template)) for chain in demonstrations)
    return PromptStyle(template, "", shots)


def continuation(chain: Chain, template: str) -> str:
    """What follows the filled template: the solution, after a space unless the template ends in white space.

    With the space in the solution, tokens such as " The" stay whole, and a sampled text begins as the solutions do.
    """
    return ("" if template[-1:].isspace() else " ") + solution_text(chain)


def _full_prompt(demonstrations: Sequence[Chain], calibration: Sequence[Chain], policy: DemoPolicy) -> _Prompt:
    if not demonstrations or not calibration:
        raise ValueError(
            f"at least one demonstration and one calibration chain are needed, "
            f"got {len(demonstrations)} and {len(calibration)}"
        )
    num_steps = len(demonstrations[0].steps)
    aligned = [*demonstrations, *(calibration if policy.calibration_loses_step else ())]
    lengths = sorted({len(chain.steps) for chain in aligned})
    if len(lengths) > 1:
        raise ValueError(f"aligned chains have the same number of steps, got {', '.join(map(str, lengths))}")
    stated = {answer_step(chain) for chain in demonstrations}
    is_fixed = tuple(index in stated or index == num_steps - 1 for index in range(num_steps))
    target = policy.target_steps
    if target is not None and target >= num_steps:
        raise ValueError(f"the demonstrations have {num_steps} steps, so target_steps must be lower, got {target}")
    if target is not None and target < sum(is_fixed):
        raise ValueError(f"{sum(is_fixed)} steps state answers and stay, so target_steps cannot be {target}")
    origins = tuple((index,) for index in range(num_steps))
    return _Prompt(tuple(demonstrations), tuple(calibration), origins, is_fixed)


def _candidates(prompt: _Prompt, policy: DemoPolicy, chance: random.Random | None) -> list[int]:
    """The steps to try: none at the target, one by chance for the control."""
    if len(prompt.origins) == (policy.target_steps or 1):
        return []
    removable = [
        index for index, is_fixed in enumerate(prompt.is_fixed) if not is_fixed and _keeps_balance(prompt, index)
    ]
    return [chance.choice(removable)] if chance and removable else removable


def _keeps_balance(prompt: _Prompt, index: int) -> bool:
    """Whether all that opens is still closed in each demonstration in which it was."""
    return all(
        is_balanced(without_step(chain, index).text) for chain in prompt.demonstrations if is_balanced(chain.text)
    )


def _without(prompt: _Prompt, index: int, policy: DemoPolicy) -> _Prompt:
    calibration = prompt.calibration
    if policy.calibration_loses_step:
        calibration = tuple(without_step(chain, index) for chain in calibration)
    return _Prompt(
        tuple(without_step(chain, index) for chain in prompt.demonstrations),
        calibration,
        prompt.origins[:index] + prompt.origins[index + 1 :],
        prompt.is_fixed[:index] + prompt.is_fixed[index + 1 :],
    )


def _request(prompt: _Prompt, policy: DemoPolicy) -> PromptRequest:
    style = prompt_style(prompt.demonstrations, policy.template)
    variants = []
    for chain in prompt.calibration:
        asked = style.prompt(chain.question)
        assert isinstance(asked, str), "a style with a template gives a text"
        text = asked + continuation(chain, policy.template)
        variants.append(Variant(text, (len(asked), len(text))))
    return PromptRequest(style.worked_examples, ScoreRequest(tuple(variants)))


def _scores(prompts: Sequence[_Prompt], policy: DemoPolicy) -> Generator[Round, Replies, list[PromptScore]]:
    replies = yield tuple(_request(prompt, policy) for prompt in prompts)
    scores = [reply for reply in replies or () if isinstance(reply, PromptScore)]
    assert len(scores) == len(prompts), "the reply to PromptRequests must be a score for each"
    return scores


def _try_merge(
    prompt: _Prompt, removal: Stage, policy: DemoPolicy, attempts: list[MergeAttempt]
) -> Generator[Round, Replies, tuple[Stage, _Prompt] | None]:
    """Merge the step into the next one, else into the previous one, in all demonstrations.

    Accepted if each merged step is faithful (`refinement.merging`), and perplexity is lower than after removal.
    """
    assert removal.index is not None, "a removal has an index"
    for left in (removal.index, removal.index - 1):
        if not 0 <= left < len(prompt.origins) - 1:
            continue
        replies = yield tuple(
            MergeRequest(chain.question, chain.steps[left], chain.steps[left + 1]) for chain in prompt.demonstrations
        )
        merged = _merged(prompt, left, replies, attempts)
        if merged is None:
            continue
        merged = replace(merged, calibration=_without(prompt, removal.index, policy).calibration)
        [score] = yield from _scores([merged], policy)
        ppl = total_perplexity(score, policy.aggregate)
        if ppl < removal.perplexity:
            stage = replace(removal, action="merge", index=left, origins=merged.origins[left])
            return replace(stage, perplexity=ppl, prompt_tokens=score.prompt_tokens), merged
    return None


def _merged(prompt: _Prompt, left: int, replies: Replies, attempts: list[MergeAttempt]) -> _Prompt | None:
    """The prompt with steps `left` and `left + 1` as one; None if one of the merged steps is not faithful."""
    merged, is_faithful = [], True
    for chain, reply in zip(prompt.demonstrations, replies or (), strict=True):
        assert isinstance(reply, MergeReply), "the reply to MergeRequests must be a MergeReply for each"
        gap = chain.separators[left] if chain.separators else chain.joiner
        problem = reply.problem or refusal(merge_of(chain, chain.steps, left, reply.text, gap))
        attempts.append(MergeAttempt(left, problem or "accepted", reply.text[:MAX_SHOWN]))
        is_faithful = is_faithful and problem is None
        merged.append(merge_steps(chain, left, reply.text))
    if not is_faithful:
        return None
    origins, is_fixed = prompt.origins, prompt.is_fixed
    return replace(
        prompt,
        demonstrations=tuple(merged),
        origins=(*origins[:left], origins[left] + origins[left + 1], *origins[left + 2 :]),
        is_fixed=(*is_fixed[:left], is_fixed[left] or is_fixed[left + 1], *is_fixed[left + 2 :]),
    )
