"""What Ray Data calls for each batch: a thin shell around a worker of `actors`.

Ray reports an exception in an actor's constructor only as text. The shell therefore keeps a UserError that the
constructor raised and raises it in the first call, from where it travels to the driver as an object. Any other
exception would end the whole run. Here it ends this process: Ray starts another, which finds in the journal what was
in flight.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pyarrow as pa

from actors.errors import StorageLost, UserError
from actors.runs.nodes import this_actor

logger = logging.getLogger(__name__)

EXIT_STATUS: Final = 70

Work = Callable[[pa.Table], Awaitable[pa.Table]]


class RowWorker:
    """The callable for Ray Data: a batch of rows in, the number of rows out. `worker` is the class to build."""

    def __init__(self, worker: Callable[..., Work], *arguments: Any) -> None:
        self._work: Work | None = None
        try:
            self._work = worker(*arguments)
        except (UserError, StorageLost) as error:
            self._error = error

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Work on one batch. Raises what the worker's constructor raised, UserError and StorageLost."""
        if self._work is None:
            raise self._error
        try:
            return await self._work(table)
        except (UserError, StorageLost):
            raise
        except Exception:
            logger.exception("the process of %s ends", this_actor())
            os._exit(EXIT_STATUS)
