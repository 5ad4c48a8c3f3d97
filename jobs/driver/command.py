"""From the command line to a config, and from a user's mistake to one line and exit status 2.

Flags win over `--config FILE.yaml`, which wins over defaults. A config is a frozen pydantic model; the
docstring under a field is its help text.
"""

import contextlib
import io
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class JobConfig(BaseModel):
    """Base of all job configs: frozen, and no field that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class UserError(Exception):
    """A mistake of the user: the message holds the bad value and the mend. Becomes exit status 2."""


Config = TypeVar("Config", bound=JobConfig)
Defaults = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def main(
    config_class: type[Config],
    run: Callable[[Config], int],
    description: str,
    defaults: Defaults = lambda given: {},
) -> NoReturn:
    """Parse, run, exit: 0 done, 1 the run says no, 2 the user must mend something, 130 interrupted.

    `defaults` may compute defaults of fields from what is given, as a recipe does.
    """
    verb = Path(sys.argv[0]).stem
    # A scheduler stops a job with SIGTERM: leave through the same door as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(run(parse(config_class, sys.argv[1:], description, defaults)))
    except UserError as error:
        print(f"{verb}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{verb}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)


def parse(
    config_class: type[Config],
    args: Sequence[str],
    description: str,
    defaults: Defaults = lambda given: {},
) -> Config:
    """The config of a command line. Raises UserError; `--help` prints and exits 0."""
    rest, path = _take_config_flag(list(args))
    from_file = _load_yaml(path, config_class) if path else {}
    first = _parse_flags(config_class, rest, description, from_file)
    computed = defaults({name: getattr(first, name) for name in config_class.model_fields})
    parsed = _parse_flags(config_class, rest, description, {**computed, **from_file})
    try:
        return config_class.model_validate(parsed.model_dump())
    except ValidationError as error:
        raise UserError(_first_complaint(error)) from None


def _take_config_flag(args: list[str]) -> tuple[list[str], str | None]:
    for position, arg in enumerate(args):
        if arg.startswith("--config="):
            return args[:position] + args[position + 1 :], arg.removeprefix("--config=")
        if arg == "--config":
            if position + 1 == len(args):
                raise UserError("--config needs a YAML file")
            return args[:position] + args[position + 2 :], args[position + 1]
    return args, None


def _load_yaml(path: str, config_class: type[JobConfig]) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"--config {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"--config {path} must hold a mapping of flags to values")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    unknown = sorted(set(values) - set(config_class.model_fields))
    if unknown:
        raise UserError(
            f"--config {path} has unknown key {unknown[0]!r}; known are {', '.join(config_class.model_fields)}"
        )
    return values


def _parse_flags(config_class: type[Config], args: list[str], description: str, values: Mapping[str, Any]) -> Config:
    """Parse without validating: values of the wrong kind are reported once, by pydantic."""
    filled = {
        name: values.get(name, tyro.MISSING if field.is_required() else field.get_default(call_default_factory=True))
        for name, field in config_class.model_fields.items()
    }
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                config_class,
                args=args,
                default=config_class.model_construct(**filled),
                description=description + "\n\n--config FILE.yaml holds any of these flags; flags win over it.",
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(complaint.getvalue())) from None
    except ValidationError as error:
        raise UserError(_first_complaint(error)) from None


def _first_complaint(error: ValidationError) -> str:
    complaint = error.errors()[0]
    message = complaint["msg"].removeprefix("Value error, ")
    if not complaint["loc"]:
        return message
    flag = "--" + str(complaint["loc"][0]).replace("_", "-")
    return message if flag in message else f"{flag} {complaint['input']!r}: {message}"


def _one_line(boxed: str) -> str:
    """tyro frames its complaint and adds pages of help; the sentence in it is what the user needs."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    lines = [re.sub(r"[─│╭╮╰╯┌┐└┘|]+", " ", line).strip() for line in plain.splitlines()]
    text = " ".join(line for line in lines if line)
    text = re.sub(r"^Parsing error\s*|^Required options\s*|^Unrecognized options\s*", "", text)
    return re.sub(r"\s*(For full helptext|Full helptext).*$", "", text) + "; --help lists all flags"
