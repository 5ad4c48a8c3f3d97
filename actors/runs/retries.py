"""Errors of storage that pass: calls are repeated with growing pauses until patience ends.

pyarrow and fsspec repeat single requests themselves, for seconds. A run of days meets more: a throttled bucket,
credentials that are renewed late, a disk that someone empties.
"""

import functools
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast

import tenacity

from actors.errors import StorageLost

logger = logging.getLogger(__name__)

HASTY_SECONDS: Final = 10.0  # a person waits for the answer
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 15.0
# What says that a thing is not there, or cannot be: repeating the call changes nothing.
FINAL: Final = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, InterruptedError)
# How Arrow's decoders say that the bytes themselves are wrong. They raise a plain OSError.
DAMAGE: Final = re.compile(r"inflate failed|corrupt|decompress|thrift|magic bytes|end of stream", re.IGNORECASE)
CLIENTS: Final = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "huggingface_hub", "requests")

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class HasPatience(Protocol):
    """Something on a storage."""

    @property
    def is_patient(self) -> bool: ...  # noqa: D102

    @property
    def path(self) -> str: ...  # noqa: D102


Place = TypeVar("Place", bound=HasPatience)


def patience_seconds() -> float:
    """How long a run waits for its storage: SLUICE_STORAGE_PATIENCE, in seconds, or ten minutes."""
    return float(os.environ.get("SLUICE_STORAGE_PATIENCE", "600"))


def may_pass(error: BaseException, is_patient: bool) -> bool:
    """Whether the same call may succeed later. To a run at work, even a refusal may pass: credentials are renewed."""
    if isinstance(error, FINAL) or (isinstance(error, OSError) and DAMAGE.search(str(error))):
        return False
    if isinstance(error, PermissionError):
        return is_patient
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in CLIENTS


def retried(
    call: Callable[Concatenate[Place, Arguments], Result],
) -> Callable[Concatenate[Place, Arguments], Result]:
    """A method of a storage that is repeated when it fails.

    It raises what the call raises if that cannot pass. After its patience it raises StorageLost on a patient storage,
    and the last error as an OSError on a hasty one.
    """

    @functools.wraps(call)
    def repeated(self: Place, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return _retrying(self.path, self.is_patient)(call, self, *arguments, **named)
        except Exception as error:
            if may_pass(error, self.is_patient):
                raise _last(error, self.path, self.is_patient) from error
            raise

    return cast(Callable[Concatenate[Place, Arguments], Result], repeated)


def patiently(call: Callable[[], Result], path: str) -> Result:
    """Call until it succeeds, as a run at work does. Raises what cannot pass, and StorageLost after its patience."""
    try:
        return _retrying(path, is_patient=True)(call)
    except Exception as error:
        if may_pass(error, is_patient=True):
            raise _last(error, path, is_patient=True) from error
        raise


class Resumed(Iterator[Item]):
    """The items of `make()`. When reading fails, a fresh iterator goes on after the items already given."""

    def __init__(self, make: Callable[[], Iterator[Item]], path: str) -> None:
        self._make = make
        self._path = path
        self._items: Iterator[Item] | None = None
        self._num_given = 0

    def __next__(self) -> Item:
        item = patiently(self._following, self._path)
        if not item:
            raise StopIteration
        self._num_given += 1
        return item[0]

    def _following(self) -> tuple[Item, ...]:
        """The next item, or () at the end: tenacity would wrap a StopIteration."""
        try:
            if self._items is None:
                self._items = itertools.islice(self._make(), self._num_given, None)
            return tuple(itertools.islice(self._items, 1))
        except BaseException:
            self._items = None
            raise


def _retrying(path: str, is_patient: bool) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: may_pass(error, is_patient)),
        wait=tenacity.wait_random_exponential(FIRST_PAUSE, LONGEST_PAUSE),
        stop=tenacity.stop_after_delay(patience_seconds() if is_patient else HASTY_SECONDS),
        before_sleep=lambda state: _tell(path, state),
        reraise=True,
    )


def _tell(path: str, state: tenacity.RetryCallState) -> None:
    error: Any = state.outcome.exception() if state.outcome else None
    logger.warning("storage: %s: %s; trying again (%d)", path, error, state.attempt_number)


def _last(error: Exception, path: str, is_patient: bool) -> Exception:
    """What to raise after the last attempt."""
    if is_patient:
        return StorageLost(f"{path} has failed for {patience_seconds():g} s: {' '.join(str(error).split())}")
    return error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")
