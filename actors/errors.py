"""Errors that decide what happens to a run.

    SluiceError
    ├── UserError        the user must change something; the command prints one line and exits with status 2
    │   ├── SessionLost  another session writes to the run now
    │   └── EndpointDown  an endpoint has not answered any request for longer than the run waits
    ├── StorageLost      the run's storage has failed for longer than a run waits; the command exits with status 1
    ├── EngineDied       the engine cannot answer any more; the worker's process ends, and Ray starts another
    ├── NonFiniteLoss    training stops before the adapter takes the step
    └── CallFailed       a call in a killable process gave no result
        ├── CallTimedOut
        └── CallCrashed

`algorithms.row_errors.RowError` stands apart: it concerns one row, which is quarantined. Every error here takes one
message and can be pickled, so that it travels from a worker to the driver as an object.
"""


class SluiceError(Exception):
    """Base of the tree.

    The message is kept beside `args`, to which Ray Data appends advice of its own, once for each call in flight.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self._message = message

    def __str__(self) -> str:
        return self._message


class UserError(SluiceError, ValueError):
    """The user must change something. The message holds the bad value and the remedy."""


class SessionLost(UserError):
    """Another session has taken over the run's folder."""


class EndpointDown(UserError):
    """An endpoint has not answered any request for longer than the run waits."""


class StorageLost(SluiceError):
    """Storage has failed for longer than a run waits. The same command resumes the run once it is back."""


class EngineDied(SluiceError):
    """A sampling engine's own process has died. Only a new worker process can go on."""


class NonFiniteLoss(SluiceError, ArithmeticError):
    """The loss of a training step is NaN or infinite. The message names the step and the rows."""


class CallFailed(SluiceError):
    """A call in a killable process gave no result."""


class CallTimedOut(CallFailed):
    """The call ran past its limit and its process was killed."""


class CallCrashed(CallFailed):
    """The process died during the call."""
