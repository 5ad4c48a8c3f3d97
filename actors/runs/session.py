"""Which session may write to a run: the one that opened it last.

A session is one execution of a command. Before each commit a worker reads the session's name from the run's folder, so
workers that outlive their command, or a command started twice, cannot write beside the newer one.
"""

import socket

from actors.errors import SessionLost, UserError
from actors.runs.folder import RunFolder


def begin_session(run: RunFolder, session: str) -> None:
    """From now on only `session` may write to the run."""
    run.session.write_bytes(session.encode())


def check_session(run: RunFolder, session: str) -> None:
    """Raise SessionLost unless `session` may write, and UserError where this node cannot see the run."""
    try:
        owner = run.session.read_bytes().decode()
    except FileNotFoundError:
        raise UserError(
            f"a worker on {socket.gethostname()} cannot see output {run.path}: "
            "choose a path that all nodes share, or a URI"
        ) from None
    if owner != session:
        raise SessionLost(f"another session has taken over {run.path}: run only one command for each output")
