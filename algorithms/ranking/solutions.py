"""What a ranker sees of a sample."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Solution:
    """A question, a solution's text, and the answer that it states, None if it states none."""

    question: str
    text: str
    answer: str | None
