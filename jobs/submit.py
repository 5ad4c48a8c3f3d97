"""Submit a verb as a job to a Ray cluster, and follow its log.

    python -m jobs.submit refine --input 's3://corpora/r1/*.parquet' --format chat --output s3://corpora/refined
    python -m jobs.submit --address http://ray-head:8265 --no-wait train --method sft --data ... --output ...

Flags before the verb belong to submit, flags after it to the verb, which are checked here before anything is sent. The
job's id is derived from the run: a command that is submitted twice follows its own job. A run whose job failed, or died
with its cluster, is resumed. Ctrl-C stops following, and not the job. The exit status is the job's.
"""

import asyncio
import logging
import os
import socket
import sys
import urllib.parse
from typing import Annotated, Any, Final

import tyro
from pydantic import Field

from actors.errors import UserError
from jobs import VERBS
from jobs.driver import command, submission
from jobs.driver.command import JobConfig
from jobs.driver.submission import Environment

CONNECT_SECONDS: Final = 5.0
RECONNECT_SECONDS: Final = 5.0
LOST_SECONDS: Final = 120.0  # without an answer of the dashboard, after which following ends
STATUS_OF: Final = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}
HERE: Final = "submit"
LOGGERS: Final = {  # which tell of each upload and connection, and of what stays here
    "ray.dashboard.modules.dashboard_sdk": logging.WARNING,
    "ray.dashboard.modules.job.sdk": logging.WARNING,
    "ray._private.runtime_env.packaging": logging.WARNING,
    "ray._private.runtime_env.working_dir": logging.ERROR,
}


class SubmitConfig(JobConfig):
    """Flags of `jobs.submit`, which stand before the verb."""

    address: str | None = None
    """Dashboard of the cluster, such as http://ray-head:8265. Default: RAY_API_SERVER_ADDRESS, or
    http://127.0.0.1:8265. Behind token authentication, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."""
    wait: bool = True
    """Follow the job's log to its end, and exit with its status. --no-wait returns once the job is submitted."""
    again: bool = False
    """Submit although a job of this run has succeeded, for example because its output was deleted."""
    environment: Environment = "nodes"
    """Packages of the job: those that the nodes have (from their image, or from make), or those that Sluice depends on,
    which Ray installs on each node with uv. The embedded models are not among the latter."""
    line: Annotated[tuple[str, ...], tyro.conf.Suppress] = Field(default=(), description="The verb and its flags.")


def main() -> None:
    """Entry point of `python -m jobs.submit`."""
    own, line = _split(sys.argv[1:])
    sys.argv = [sys.argv[0], *own]
    command.main(SubmitConfig, run, __doc__ or "", lambda given: {"line": line})


def run(config: SubmitConfig) -> int:
    """Submit or follow. Returns the job's exit status."""
    verb, args = _checked_line(config.line)
    verb_config = command.config_of(verb, args)
    submission.check_output(verb_config)
    entrypoint = submission.entrypoint(verb, args)
    address = (config.address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265").rstrip("/")
    client = _connect(address)
    first_id = submission.submission_id(verb, verb_config)
    again = config.again or verb in submission.ALWAYS_AGAIN
    decision = submission.decide(first_id, _statuses(client), again)
    if decision.action == "finished":
        print(f"{decision.id} has succeeded: this run is finished. --again submits it once more")
        return 0
    if decision.action == "submit":
        environment = submission.runtime_env(config.environment)
        metadata = {"verb": verb, "output": str(getattr(verb_config, "output", None) or "")}
        decision = _submit(client, decision, entrypoint, environment, metadata)
    if decision.action == "follow":
        print(f"{decision.id} runs already", flush=True)
    else:
        resumes = f", which goes on where {decision.predecessor} ended" if decision.predecessor else ""
        print(f"submitted {decision.id}{resumes}", flush=True)
    if not config.wait:
        print(_how_to_go_on(address, decision.id))
        return 0
    return _follow(client, address, decision.id)


def _split(args: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Submit's own arguments, and the verb with its own: the first word that is neither a flag nor its value."""
    takes_value = {
        f"--{name.replace('_', '-')}"
        for name, field in SubmitConfig.model_fields.items()
        if field.annotation is not bool
    } | {"--config"}
    position = 0
    while position < len(args) and args[position].startswith("-"):
        position += 2 if args[position] in takes_value else 1
    return args[:position], tuple(args[position:])


def _checked_line(line: tuple[str, ...]) -> tuple[str, list[str]]:
    verbs = [verb for verb in VERBS if verb != HERE]
    if not line:
        raise UserError(f"missing VERB after submit's own flags; the verbs are {', '.join(verbs)}")
    verb = line[0].replace("-", "_")
    if verb not in verbs:
        raise UserError(f"{line[0]!r} is no verb to submit; the verbs are {', '.join(verbs)}")
    return verb, list(line[1:])


def _connect(address: str) -> Any:
    """The client of the dashboard at this address. Raises UserError if none answers."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--address {address} is no dashboard: give a URL such as http://ray-head:8265")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"no dashboard answers at --address {address} ({error.strerror or error}): start the cluster with "
            "`ray start --head`, or forward its port 8265 to this machine"
        ) from None
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name, level in LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers it, and RAY_ADDRESS, to an argument
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise UserError(
            f"the cluster at --address {address} asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None
    except (RuntimeError, ConnectionError, OSError, ValueError) as error:
        raise UserError(f"--address {address} is no dashboard of Ray ({_first_line(error)})") from None


def _statuses(client: Any) -> dict[str, str]:
    return {job.submission_id: str(job.status.value) for job in client.list_jobs() if job.submission_id}


def _submit(
    client: Any,
    decision: submission.Decision,
    entrypoint: str,
    environment: dict[str, Any],
    metadata: dict[str, str],
) -> submission.Decision:
    """Submit the job, or find that somebody else has just done so."""
    try:
        client.submit_job(entrypoint=entrypoint, submission_id=decision.id, runtime_env=environment, metadata=metadata)
    except (RuntimeError, ValueError) as error:
        if decision.id in _statuses(client):
            return submission.Decision("follow", decision.id)
        raise UserError(f"the cluster refuses the job: {_first_line(error)}") from None
    return decision


def _follow(client: Any, address: str, job: str) -> int:
    """Print the job's log until it ends. Returns its exit status."""
    try:
        status = asyncio.run(_print_log(client, job))
    except KeyboardInterrupt:
        print(f"\n{HERE}: stopped following; the job goes on. {_how_to_go_on(address, job)}", file=sys.stderr)
        return 130
    if status is None:
        print(
            f"{HERE}: the dashboard at {address} has not answered for {LOST_SECONDS:.0f} s. Repeat the command once "
            "the cluster is back: it follows the job, or resumes the run",
            file=sys.stderr,
        )
        return 1
    info = client.get_job_info(job)
    code = info.driver_exit_code
    if status == "FAILED" and code is None:  # it never started: the log says nothing
        print(f"{HERE}: {job} failed: {_first_line(info.message or 'no reason given')}", file=sys.stderr)
    print(f"{job}: {status.lower()}", flush=True)
    return code if code is not None and code >= 0 and status == "FAILED" else STATUS_OF[status]


async def _print_log(client: Any, job: str) -> str | None:
    """Print the log as it grows, also over lost connections. Returns the job's last status; None if nobody answers."""
    import aiohttp

    num_printed = 0
    silent_since: float | None = None
    loop = asyncio.get_running_loop()
    while True:
        to_skip = num_printed  # a new connection begins with the first line again
        try:
            async for text in client.tail_job_logs(job):
                fresh = text[to_skip:]
                to_skip = max(0, to_skip - len(text))
                num_printed += len(fresh)
                print(fresh, end="", flush=True)
                silent_since = None
            status = str(client.get_job_status(job).value)
            if status in STATUS_OF:
                return status
            silent_since = None
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            silent_since = silent_since or loop.time()
            if loop.time() - silent_since > LOST_SECONDS:
                logging.getLogger(__name__).debug("the dashboard is lost", exc_info=error)
                return None
        await asyncio.sleep(RECONNECT_SECONDS)


def _how_to_go_on(address: str, job: str) -> str:
    return (
        f"Follow it: repeat the command, or `ray job logs --address {address} --follow {job}`. "
        f"Stop it: `ray job stop --address {address} {job}`"
    )


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]


if __name__ == "__main__":
    main()
