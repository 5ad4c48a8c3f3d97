"""From the command line to a config, and from a user's mistake to one line and exit status 2.

Flags win over `--config FILE.yaml`, which wins over defaults. A config is a frozen pydantic model; the
docstring under a field is its help text.
"""

import contextlib
import copy
import dataclasses
import functools
import io
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo


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
    given = _parse_flags(config_class, rest, description, from_file)
    given = _parse_flags(config_class, rest, description, {**defaults(given), **from_file})
    try:
        return config_class.model_validate(given)
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
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} cannot be read: {error}") from None
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
    for name, value in values.items():
        info = config_class.model_fields[name]
        try:
            values[name] = TypeAdapter(_annotated(info, info)).validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UserError(f"--config {path}: --{name.replace('_', '-')} {value!r}: {message}") from None
    return values


def _parse_flags(
    config_class: type[JobConfig], args: list[str], description: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The value of every field, not validated yet: pydantic complains once, and better than a parser can."""
    fields: list[tuple[str, Any, Any]] = []
    for name, info in config_class.model_fields.items():
        kind = _annotated(info, tyro.conf.arg(help=info.description))
        if name in values or not info.is_required():
            default = values.get(name, info.get_default(call_default_factory=True))
            fields.append((name, kind, dataclasses.field(default_factory=functools.partial(copy.copy, default))))
        else:
            fields.append((name, kind, dataclasses.field()))
    plain = dataclasses.make_dataclass(config_class.__name__, fields, kw_only=True)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: Any = tyro.cli(
                plain,
                prog=f"python -m jobs.{Path(sys.argv[0]).stem.removeprefix('sluice ')}",
                args=args,
                description=description + "\n\n--config FILE.yaml holds any of these flags; flags win over it.",
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(complaint.getvalue())) from None
    return {name: getattr(parsed, name) for name in config_class.model_fields}


def _annotated(info: FieldInfo, *extra: Any) -> Any:
    """The field's type with its bounds and markers, which pydantic keeps apart, and some more."""
    return Annotated[(info.annotation, *extra, *info.metadata)]


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
    text = re.sub(r" Argument helptext: .*| Perhaps you meant: (--[\w-]+).*", r"", text)
    text = re.sub(r"^Value error\s*|^Parsing error\s*|^Required options\s*|^Unrecognized options\s*", "", text)
    return re.sub(r"\s*(For full helptext|Full helptext).*$", "", text) + "; --help lists all flags"
