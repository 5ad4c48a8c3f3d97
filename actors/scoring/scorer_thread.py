"""The thread in which a scorer computes, and the question of who is to blame if it raises.

A pass holds the requests of many rows. If scoring them raises something unexpected, either one of the rows does it, or
the device is broken. So each request is scored again alone: those that raise are at fault if any other succeeds.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from actors.errors import SluiceError
from actors.scoring.protocol import Scored, Scorer, ScoringTask
from algorithms.row_errors import RowError

Result = Scored | RowError | Exception


class ScorerThread:
    """Scores passes one after the other, without a gap between two that were handed in together.

    `spend(seconds)` hears how long each pass took.
    """

    def __init__(self, scorer: Scorer, spend: Callable[[float], None]) -> None:
        self._scorer = scorer
        self._spend = spend
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._has_scored = False

    async def score(self, tasks: Sequence[ScoringTask]) -> list[Result]:
        """The result of each task; an exception for a task that is at fault itself.

        Raises what the scorer raised if that concerns the whole run (SluiceError) or any task.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._score, tasks)

    def _score(self, tasks: Sequence[ScoringTask]) -> list[Result]:
        started = time.perf_counter()
        results: list[Result]
        try:
            results = list(self._scorer.score(tasks))
            self._has_scored = True
        except SluiceError:
            raise
        except Exception as error:  # noqa: BLE001  any exception may come from one row's input
            results = self._score_alone(tasks, error)
        self._spend(time.perf_counter() - started)
        return results

    def _score_alone(self, tasks: Sequence[ScoringTask], error: Exception) -> list[Result]:
        results: list[Result] = [error] if len(tasks) == 1 else [self._try_alone(task) for task in tasks]
        is_any_scored = any(isinstance(result, Scored | RowError) for result in results)
        # A task that was alone in its pass has no others to compare with, so the pass before it decides: long chains
        # fill passes of their own, and a broken device must not quarantine one after the other.
        if not is_any_scored and (len(tasks) > 1 or not self._has_scored):
            raise error
        self._has_scored = is_any_scored
        return results

    def _try_alone(self, task: ScoringTask) -> Result:
        try:
            [result] = self._scorer.score([task])
        except SluiceError:
            raise
        except Exception as error:  # noqa: BLE001  it is this row's: the caller quarantines it
            return error
        return result
