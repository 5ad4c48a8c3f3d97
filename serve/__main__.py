"""`python -m serve KEY=VALUE ...` or `python -m serve FILE.yaml KEY=VALUE ...`: serve on this machine, or on the
cluster at RAY_ADDRESS, until Ctrl-C.

It does what `serve run serve.app:build` does, and tells a mistake in one line, with exit status 2. `host=` and `port=`
say where to listen. A dot reaches into a section: adaptive.max_samples=8. Values are YAML.
"""

import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from actors.code import py_modules
from actors.errors import UserError

HOST: Final = "127.0.0.1"
PORT: Final = 8000
SLOTS: Final = 16  # CPU slots of a local Ray: they admit replicas and do not bind cores


def main() -> None:
    """Serve until interrupted."""
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print(_help())
        return
    try:
        values = read_arguments(sys.argv[1:])
        host, port = str(values.pop("host", HOST)), values.pop("port", PORT)
        if not isinstance(port, int):
            raise UserError(f"port={port} is not a number")
        run(values, host, port)
    except UserError as error:
        print(f"serve: {error}", file=sys.stderr)
        sys.exit(2)


def run(values: dict[str, Any], host: str, port: int) -> None:
    """Serve what the values say, and print where. Raises UserError if they are wrong."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # only what concerns the user belongs on this screen
    import ray
    from ray import serve

    from serve.app import build
    from serve.settings import Settings

    try:
        settings = Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{name}: {first['msg']}" if name else first["msg"].removeprefix("Value error, ")) from None
    application = build(settings)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    address = os.environ.get("RAY_ADDRESS")
    where: dict[str, Any] = {"address": "local", "num_cpus": SLOTS, "include_dashboard": False}
    if not address:
        _check_free(host, port)
    else:
        where = {"address": address, "runtime_env": {"py_modules": py_modules()}}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise UserError(f"no Ray answers at RAY_ADDRESS={address}: {' '.join(str(error).split())[:200]}") from None
    serve.start(http_options={"host": host, "port": port})
    serve.run(application, name="sluice", route_prefix="/")
    print(f"http://{host}:{port}/  (models: {', '.join(settings.students)}; Ctrl-C ends it)", flush=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(1.0):
        pass
    serve.shutdown()
    ray.shutdown()


def read_arguments(words: list[str]) -> dict[str, Any]:
    """KEY=VALUE words and YAML files as nested values; later ones win. Raises UserError."""
    values: dict[str, Any] = {}
    for word in words:
        name, is_setting, text = word.partition("=")
        if not is_setting:
            _merge(values, _file(word))
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        for part in reversed(name.split(".")):
            value = {part: value}
        _merge(values, value)
    return values


def _check_free(host: str, port: int) -> None:
    """Raise UserError if this machine cannot listen there."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"cannot listen at {host}:{port}: {error}; choose another port=") from None


def _file(path: str) -> dict[str, Any]:
    """The settings in a YAML file: of the graph, or of a config of Ray Serve with one application."""
    try:
        found = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no KEY=VALUE and cannot be read: {' '.join(str(error).split())}") from None
    if isinstance(found, dict) and "applications" in found:
        found = (found["applications"] or [{}])[0].get("args")
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no settings")
    return found


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _help() -> str:
    """The settings and what they mean."""
    from serve.settings import Settings, StudentSettings

    lines = [__doc__ or "", "Of a student:"]
    lines += [f"  {name:<18} {field.description or ''}" for name, field in StudentSettings.model_fields.items()]
    lines += ["", "Of the graph:"]
    own = (item for item in Settings.model_fields.items() if item[0] not in StudentSettings.model_fields)
    lines += [f"  {name:<18} {field.description or ''}" for name, field in own]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
