"""When a training run is tried again after workers have failed.

Processes and nodes die, and networks break: then another attempt goes on from the last checkpoint. An error in the
data or the code comes again, so it ends the run. Ray Train itself would try again whatever the error is. It still
counts preempted nodes, which cost no attempt here.
"""

from typing import Final

from actors.errors import EngineDied, StorageLost, UserError
from actors.training.trainer import BEFORE_FIRST_STEP

MISTAKES: Final = (ValueError, TypeError, KeyError, AssertionError)
PASSING: Final = (OSError, StorageLost, EngineDied)


class Attempts:
    """The failures of one training run. `max_failures` of them are followed by another attempt."""

    def __init__(self, max_failures: int) -> None:
        self._left = max_failures
        self._before: set[tuple[str, str]] = set()  # faults of the last attempt

    def check(self, error: BaseException) -> None:
        """Return if another attempt may succeed. Otherwise raise UserError with the reason in one line.

        It cannot succeed after a UserError; after a ValueError, TypeError, KeyError or AssertionError before the first
        step of the attempt; or after the same error as in the attempt before, in the same step.
        """
        failures: dict[int, Exception] = getattr(error, "worker_failures", {})
        # Exceptions of workers are there as they were raised. For a dead worker there is one of Ray's.
        own = [each for each in failures.values() if type(each).__module__.partition(".")[0] != "ray"]
        faults = [each for each in own if not _is_passing(each)]
        for fault in faults:
            is_mistake = isinstance(fault, MISTAKES) and _step(fault) in ("", BEFORE_FIRST_STEP)
            if isinstance(fault, UserError) or is_mistake or _identity(fault) in self._before:
                raise UserError(f"{_message(fault)}; another attempt would fail too") from None
        # The others of a dead worker complain too, each time alike.
        self._before = {_identity(fault) for fault in faults} if len(own) == len(failures) else set()
        self._left -= 1
        if self._left < 0 or not failures:
            told = _message((faults or own)[0]) if own else f"training failed: {_last_line(error)}"
            raise UserError(f"{told}; repeat the command to resume from the last checkpoint") from None


def _is_passing(error: BaseException) -> bool:
    """Whether storage or the network has failed."""
    import torch

    return isinstance(error, (*PASSING, torch.distributed.DistError))


def _step(error: BaseException) -> str:
    """Where the trainer says that the error came; "" if it came before there was a trainer."""
    return " ".join(getattr(error, "__notes__", ()))


def _identity(error: BaseException) -> tuple[str, str]:
    return f"{type(error).__name__}: {error}", _step(error)


def _message(error: BaseException) -> str:
    what = (
        str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    )
    return f"training failed {_step(error)}".rstrip() + f": {what}"


def _last_line(error: BaseException) -> str:
    """The last line of Ray's own message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
