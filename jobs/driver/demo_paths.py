"""Takes the paths of `algorithms.demonstrations` to their ends: answers what they ask for, all paths together.

A reply comes from the run's folder if an earlier session or another path has paid for it. Otherwise the
actors score the prompt, or merge the pair of steps.
"""

from collections.abc import Sequence
from typing import Any, Final

from actors.runs.replies import Replies
from algorithms.demonstrations import Path, PromptRequest, PromptScore, Round, Shortening
from algorithms.refinement.requests import MergeReply, MergeRequest
from jobs.driver.prompt_pool import PromptPool

COSTS: Final = ("tokens_forwarded", "tokens_separate_forwards", "seconds")  # of scoring a prompt


class Desk:
    """Answers the requests of paths: from the run's replies, else from the actors."""

    def __init__(self, replies: Replies, pool: PromptPool) -> None:
        self._replies = replies
        self._pool = pool
        self._known: dict[PromptRequest | MergeRequest, Any] = {}
        self._num_asked = 0
        self._totals: dict[str, Any] = {"prompts_scored": 0, **dict.fromkeys(COSTS, 0)}

    def answer(self, rounds: Sequence[Round]) -> list[list[Any]]:
        """The replies to several rounds, which are answered together."""
        asked = dict.fromkeys(request for each in rounds for request in each)
        new = [request for request in asked if request not in self._known]
        self._num_asked += sum(isinstance(request, PromptRequest) for request in new)
        missing = []
        for request in new:
            reply = self._replies.find(request)
            if reply is None:
                missing.append(request)
            else:
                self._keep(request, reply)
        prompts = [request for request in missing if isinstance(request, PromptRequest)]
        for index, reply in self._pool.score(prompts):
            self._keep(prompts[index], reply)
        self._merge([request for request in missing if isinstance(request, MergeRequest)])
        return [[self._reply(request) for request in each] for each in rounds]

    def totals(self) -> dict[str, Any]:
        """What scoring cost, over all sessions. A prompt that several paths visit counts once."""
        return dict(self._totals)

    def line(self) -> str:
        """Progress now."""
        scored, tokens = self._totals["prompts_scored"], self._totals["tokens_forwarded"]
        return f"{scored} of {self._num_asked} prompts scored  {tokens:,} tokens forwarded"

    def _keep(self, request: PromptRequest | MergeRequest, reply: dict[str, Any]) -> None:
        self._known[request] = reply
        if isinstance(request, PromptRequest):
            self._totals["prompts_scored"] += 1
            for name in COSTS:
                self._totals[name] += reply[name]

    def _merge(self, asked: Sequence[MergeRequest]) -> None:
        for request, reply in zip(asked, self._pool.merge(asked), strict=True):
            kept = {"text": reply.text, "problem": reply.problem}
            if reply.problem is None:
                self._replies.save(request, kept)
            self._keep(request, kept)

    def _reply(self, request: PromptRequest | MergeRequest) -> PromptScore | MergeReply:
        reply = self._known[request]
        if isinstance(request, MergeRequest):
            return MergeReply(reply["text"], reply["problem"])
        return PromptScore(tuple(reply["perplexities"]), tuple(reply["num_scored"]), reply["prompt_tokens"])


def drive(paths: Sequence[Shortening], desk: Desk) -> list[Path]:
    """Take several paths to their ends, a round of all of them at a time."""
    done: dict[int, Path] = {}
    replies: dict[int, Any] = dict.fromkeys(range(len(paths)))
    while replies:
        rounds: dict[int, Round] = {}
        for number, reply in replies.items():
            try:
                rounds[number] = paths[number].send(reply)
            except StopIteration as stop:
                done[number] = stop.value
        replies = dict(zip(rounds, desk.answer(list(rounds.values())), strict=True)) if rounds else {}
    return [done[number] for number in range(len(paths))]
