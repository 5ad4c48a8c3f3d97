"""Ends the processes that a library has started when this process dies, even of `kill -9`.

A library may start processes that outlive their parent: vLLM's engine waits for requests for ever and keeps its memory.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


class DeathGuard:
    """A shell that blocks on a pipe from this process. The pipe closes when this process dies, however it dies."""

    def __init__(self) -> None:
        self._shell: subprocess.Popen[bytes] | None = None

    @contextmanager
    def adopting(self) -> Iterator[None]:
        """Guard the processes that start inside this context, and theirs."""
        before = set(psutil.Process().children(recursive=True))
        yield
        started = [child.pid for child in psutil.Process().children(recursive=True) if child not in before]
        script = "read _; kill -9 " + " ".join(map(str, started)) + " 2>/dev/null"
        # A session of its own: a signal to this process's group must not end the shell first.
        self._shell = subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)

    def close(self) -> None:
        """Stop guarding: the library has ended its processes itself."""
        if self._shell is not None:
            self._shell.kill()
            self._shell.wait()
