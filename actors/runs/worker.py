"""What Ray Data calls for each batch: a thin shell around a worker of `actors`.

Ray reports an exception in an actor's constructor only as text. The shell therefore keeps a UserError that the
constructor raised and raises it in the first call, from where it travels to the driver as an object.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa

from actors.errors import UserError

Work = Callable[[pa.Table], Awaitable[pa.Table]]


class RowWorker:
    """The callable for Ray Data: a batch of rows in, the number of rows out. `worker` is the class to build."""

    def __init__(self, worker: Callable[..., Work], *arguments: Any) -> None:
        self._work: Work | None = None
        try:
            self._work = worker(*arguments)
        except UserError as error:
            self._error = error

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Work on one batch. Raises what the worker's constructor raised."""
        if self._work is None:
            raise self._error
        return await self._work(table)
