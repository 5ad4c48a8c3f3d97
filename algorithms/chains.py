"""A reasoning chain: a question, the steps that solve it, the answer.

Also how the steps become one text, and which step states the answer. Knows nothing about tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

# What comes before an answer where a solution states it, and not just mentions it.
STATEMENT: Final = re.compile(
    r"\\(?:boxed|fbox)(?![a-zA-Z])|####|\b(?:answer|result|solution)\b[^.\n]{0,80}?(?:\b(?:is|are|was|equals)\b|[:=])"
    r"|\b(?:option|choice)\b|答案",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Chain:
    """One worked solution.

    `answer` is "" if the corpus does not have it. `separators` are the texts between neighbouring steps; if empty,
    `joiner` stands between them all. `joiner` also stands between the question and the first step.
    """

    question: str
    steps: tuple[str, ...]
    answer: str
    joiner: str = "\n"
    separators: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The steps as one text."""
        return joined(self.steps, self.separators, self.joiner)


def joined(steps: Sequence[str], separators: Sequence[str], joiner: str) -> str:
    """The steps as one text, with a separator between each two; without separators, `joiner` joins them."""
    if not separators:
        return joiner.join(steps)
    parts = [part for pair in zip(steps, separators, strict=False) for part in pair]
    return "".join([*parts, *steps[len(separators) :]])


def wider_gap(first: str, second: str) -> str:
    """Of the gaps around a removed step, the one that stays: the one with more new lines, else the longer one."""
    return max((first, second), key=lambda gap: (gap.count("\n"), len(gap)))


def without_step(chain: Chain, index: int) -> Chain:
    """The chain without one step."""
    gaps = chain.separators
    if gaps:
        around = gaps[max(0, index - 1) : index + 1]
        gaps = gaps[: max(0, index - 1)] + (wider_gap(*around),) * (len(around) == 2) + gaps[index + 1 :]
    return replace(chain, steps=chain.steps[:index] + chain.steps[index + 1 :], separators=gaps)


def merge_steps(chain: Chain, left: int, text: str) -> Chain:
    """The chain with `text` instead of steps `left` and `left + 1`."""
    steps = (*chain.steps[:left], text, *chain.steps[left + 2 :])
    return replace(chain, steps=steps, separators=chain.separators[:left] + chain.separators[left + 1 :])


def answer_step(chain: Chain) -> int | None:
    """The index of the step that states the answer; None if no step does.

    The last step that states the answer explicitly ("the answer is", a box), or else the last step in which the answer
    stands alone. Thousands separators do not matter. If the answer is unknown, the last step states it.
    """
    answer = _without_separators(chain.answer.strip())
    if not answer:
        return len(chain.steps) - 1
    # "7" stands alone in "= 7.", but not in "17", "7.5" or "7/2". "A" and "I" are also words.
    after = r"(?![\w/])(?!\.\d)" + (r"(?!['’ ]\s*[a-z])" if answer in ("A", "I") else "")
    alone = re.compile(rf"(?<![\w./])(?<!\d,){re.escape(answer)}{after}")
    mentioning = None
    for index in range(len(chain.steps) - 1, -1, -1):
        step = _without_separators(chain.steps[index])
        mention = list(alone.finditer(step))
        if not mention:
            continue
        statement = STATEMENT.search(step)
        if statement and statement.end() <= mention[-1].start():
            return index
        if mentioning is None:
            mentioning = index
    return mentioning


def recorded_chain(record: Mapping[str, Any], *, refined: bool) -> Chain:
    """The chain in a record of `jobs.refine`, before or after the refinement."""
    prefix = "refined_" if refined else ""
    steps, separators = record[f"{prefix}steps"] or (), record.get(f"{prefix}separators") or ()
    return Chain(record["question"], tuple(steps), record["answer"], record["joiner"], tuple(separators))


def solution_text(chain: Chain) -> str:
    """The steps as one text, followed by the answer if no step states it."""
    is_stated = answer_step(chain) is not None
    return chain.text if is_stated else chain.text + chain.joiner + chain.answer


def _without_separators(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
