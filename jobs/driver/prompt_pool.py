"""Actors that score candidate prompts: as many as the cluster has room for, each with few prompts in flight.

Ray restarts an actor that dies and sends its prompts again. Actors that Ray gives up leave theirs to the others.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from actors.demonstrator import Demonstrator
from actors.errors import UserError
from actors.merging.build import MakeMerger
from actors.runs.folder import RunFolder
from actors.scoring.protocol import Scorer
from algorithms.demonstrations import PromptRequest
from algorithms.refinement.requests import MergeReply, MergeRequest
from jobs.driver import cluster
from jobs.driver.corpus_run import ActorFlags

IN_FLIGHT: Final = 2  # prompts of an actor: one is prepared while another is scored
RESTARTS: Final = 3  # of each actor


class PromptPool:
    """The actors of a run. They start with the first prompt that must be scored."""

    def __init__(
        self,
        config: ActorFlags,
        make_scorer: Callable[[], Scorer],
        run: RunFolder,
        make_merger: MakeMerger | None = None,
    ) -> None:
        self._config = config
        self._arguments = (make_scorer, run, make_merger)
        self._starting: dict[Any, Any] = {}  # reference -> the actor that will be ready
        self._running: dict[Any, tuple[int, Any]] = {}  # reference -> index of the prompt, actor
        self._loads: dict[Any, int] = {}  # prompts in flight of each actor that is ready

    def score(self, asked: Sequence[PromptRequest]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The index and the reply of each prompt, in the order in which they are scored.

        Raises UserError for a prompt or a model that cannot be scored, and if no actor stays alive.
        """
        import ray

        if asked and not self._starting and not self._loads:
            self._start()
        todo = deque(range(len(asked)))
        while todo or self._running:
            self._hand_out(todo, asked)
            [ref], _ = ray.wait([*self._running, *self._starting], num_returns=1)
            index, actor = self._running.pop(ref, None) or (None, self._starting.pop(ref, None))
            try:
                with cluster.worker_errors():
                    reply = ray.get(ref)
            except ray.exceptions.RayActorError as error:
                if index is not None:
                    todo.appendleft(index)
                self._give_up(actor, error)
                continue
            if index is None:
                self._loads[actor] = 0
            else:
                self._loads[actor] -= 1
                yield index, reply

    def merge(self, asked: Sequence[MergeRequest]) -> list[MergeReply]:
        """The reply to each request, from one of the actors. They have scored before, so one is ready."""
        import ray

        while asked:
            actor = next(iter(self._loads))
            try:
                with cluster.worker_errors():
                    return list(ray.get(actor.merge.remote(list(asked))))
            except ray.exceptions.RayActorError as error:
                self._give_up(actor, error)
        return []

    def _start(self) -> None:
        import ray

        ask = self._config.ask
        worker: Any = ray.remote(Demonstrator).options(
            num_cpus=ask.cpus, num_gpus=ask.gpus or None, max_restarts=RESTARTS, max_task_retries=RESTARTS
        )
        for _ in range(self._config.actor_range[1]):
            actor: Any = worker.remote(*self._arguments)
            self._starting[actor.ready.remote()] = actor

    def _hand_out(self, todo: deque[int], asked: Sequence[PromptRequest]) -> None:
        """Give the next prompts to the actors that are ready, in turn."""
        for _, actor in itertools.product(range(IN_FLIGHT), list(self._loads)):
            if todo and self._loads[actor] < IN_FLIGHT:
                index = todo.popleft()
                self._running[actor.__call__.remote(asked[index])] = index, actor
                self._loads[actor] += 1

    def _give_up(self, actor: Any, error: Exception) -> None:
        """Go on without an actor. Raises UserError if it was the last."""
        self._loads.pop(actor, None)
        if not self._loads and not self._starting:
            reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
            raise UserError(
                f"the actors that score have died, each after {RESTARTS} restarts ({reason}): "
                "repeat the command to resume"
            ) from None
