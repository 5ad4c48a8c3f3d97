"""Merges steps with a language model behind an engine of `actors.engines`.

An endpoint that is down, refuses a prompt or answers nonsense costs a merge, never a row: the reply then names the
problem, the report counts it, and the refinement goes on as its policy says.
"""

import asyncio
from typing import Final

from actors.engines.protocol import Engine, SampleRequest
from actors.errors import EndpointDown
from actors.runs.replies import Replies
from algorithms.refinement.merge_prompt import line_end, merge_prompt, merged_step
from algorithms.refinement.requests import MergeReply, MergeRequest
from algorithms.row_errors import RowError
from algorithms.sampling import SamplingParams

MAX_TOKENS: Final = 512  # of a merged step
SPARE_TOKENS: Final = 32  # for a label and quotes around it
ENDPOINT_DOWN: Final = "endpoint_down"
CUT: Final = "cut"  # the reply is longer than both steps


class EngineMerger:
    """A merger that asks `engine` greedily.

    `is_chat`: the model gets a user's message, not a text to continue. `replies`: where replies are kept, under the
    `name` of the model; None for a model of one's own, whose replies cost no money.
    """

    def __init__(self, engine: Engine, *, is_chat: bool, replies: Replies | None = None, name: str = "") -> None:
        self.concurrency = engine.concurrency
        self._engine = engine
        self._is_chat = is_chat
        self._replies = replies
        self._name = name

    async def merge(self, request: MergeRequest) -> MergeReply:
        """The merged step, or the name of the problem. Raises UserError if the endpoint refuses access."""
        kept = await asyncio.to_thread(self._replies.find, (self._name, request)) if self._replies else None
        if kept is not None:
            return MergeReply(kept["text"])
        prompt = merge_prompt(request, is_chat=self._is_chat)
        params = SamplingParams(
            0.0, max_tokens=_most_tokens(request), stop=() if self._is_chat else (line_end(request),)
        )
        try:
            sample = await self._engine.sample(SampleRequest(prompt, params))
        except EndpointDown:
            return MergeReply(problem=ENDPOINT_DOWN)
        except RowError as error:
            return MergeReply(problem=error.reason)
        if sample.finish_reason == "length":
            return MergeReply(problem=CUT)
        text = merged_step(sample.text)
        if self._replies:
            await asyncio.to_thread(self._replies.save, (self._name, request), {"text": text})
        return MergeReply(text)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def _most_tokens(request: MergeRequest) -> int:
    """A merged step is shorter than both, and a token has two bytes or more on average: an essay costs no more."""
    length = len((request.first + request.second).encode("utf-8", "replace"))
    return min(MAX_TOKENS, SPARE_TOKENS + length // 2)
