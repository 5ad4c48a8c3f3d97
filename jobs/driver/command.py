"""From the command line to a config, and from a user's mistake to one line and exit status 2.

Flags override `--config FILE.yaml`, which overrides defaults. A config is a frozen pydantic model, and the docstring
under a field is its help text.
"""

import contextlib
import contextvars
import copy
import dataclasses
import functools
import importlib
import io
import itertools
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, NoReturn, TypeVar

import tyro
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from actors.errors import StorageLost, UserError


class JobConfig(BaseModel):
    """Base of all configs of verbs: frozen, and strict about unknown fields."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,  # num_actors: 2 in YAML
    )


Config = TypeVar("Config", bound=JobConfig)
Defaults = Callable[[Mapping[str, Any]], Mapping[str, Any]]

PLAIN_INT: Final = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$")
NUMBERS_AS_TEXT: Final = ConfigDict(coerce_numbers_to_str=True)  # num_actors: 4

_checks_only: contextvars.ContextVar[bool] = contextvars.ContextVar("checks_only", default=False)


class _Checked(Exception):
    """Ends a verb whose command line was to be checked only."""

    def __init__(self, config: JobConfig) -> None:
        super().__init__()
        self.config = config


def main(
    config_class: type[Config],
    run: Callable[[Config], int],
    description: str,
    defaults: Defaults = lambda given: {},
) -> NoReturn:
    """Parse the flags, run the verb and exit.

    Exit status: 0 done, 1 the run failed its own checks, 2 the user must change something, 130 interrupted. `defaults`
    may compute defaults of fields from the given flags, as a recipe does.
    """
    if _checks_only.get():
        raise _Checked(parse(config_class, sys.argv[1:], description, defaults))
    # A scheduler stops a job with SIGTERM. Treat it like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(run(parse(config_class, sys.argv[1:], description, defaults)))
    except UserError as error:
        print(f"{verb()}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except StorageLost as error:
        print(f"{verb()}: {' '.join(str(error).split())}; repeat the command to resume", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{verb()}: interrupted; repeat the command to resume", file=sys.stderr)
        sys.exit(130)


def config_of(name: str, args: Sequence[str]) -> JobConfig:
    """The config of another verb's command line, as that verb reads it. Runs nothing.

    Raises UserError as the verb would.
    """
    before = sys.argv
    sys.argv = [f"sluice {name}", *args]
    token = _checks_only.set(True)
    try:
        importlib.import_module(f"jobs.{name}").main()
    except _Checked as checked:
        return checked.config
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    finally:
        _checks_only.reset(token)
        sys.argv = before
    raise AssertionError(f"jobs.{name} does not start through command.main")


def verb() -> str:
    """The verb of this command line, such as refine."""
    return Path(sys.argv[0]).stem.removeprefix("sluice ")


def command_line() -> str:
    """What a user types to run this command again."""
    return f"python -m jobs.{verb()} " + shlex.join(sys.argv[1:])


def choice(values: Iterable[str]) -> Any:
    """A validator for a text field: the value must be one of `values`."""
    known = tuple(values)

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value

    return AfterValidator(check)


def listed(intro: str, descriptions: Mapping[str, str]) -> str:
    """The help text of a field with named choices."""
    return f"{intro} " + " ".join(f"{name}: {text}." for name, text in descriptions.items())


def parse(
    config_class: type[Config],
    args: Sequence[str],
    description: str,
    defaults: Defaults = lambda given: {},
) -> Config:
    """The config of a command line. Raises UserError; `--help` prints and exits 0."""
    rest, path = take_config_flag(list(args))
    from_file = _load_yaml(path, config_class) if path else {}
    given = _parse_flags(config_class, rest, description, from_file)
    given = _parse_flags(config_class, rest, description, {**defaults(given), **from_file})
    return validated(config_class, given)


def validated(config_class: type[Config], given: Mapping[str, Any]) -> Config:
    """The config with these values. Raises UserError for the first that is wrong."""
    try:
        return config_class.model_validate(given)
    except ValidationError as error:
        raise UserError(_first_error(error)) from None


def peek(name: str) -> str | None:
    """The text of a flag on this command line or in its --config file, before anything is checked."""
    args, path = take_config_flag(sys.argv[1:])
    for position, arg in enumerate(args):
        if arg.startswith(f"--{name}="):
            return arg.partition("=")[2]
        if arg == f"--{name}":
            return args[position + 1] if position + 1 < len(args) else None
    if path is None:
        return None
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # told when the flags are parsed
    return str(values[name]) if isinstance(values, dict) and name in values else None


def take_config_flag(args: list[str]) -> tuple[list[str], str | None]:
    """The other arguments, and the file that --config names."""
    for position, arg in enumerate(args):
        if arg.startswith("--config="):
            return args[:position] + args[position + 1 :], arg.removeprefix("--config=")
        if arg == "--config":
            if position + 1 == len(args):
                raise UserError("--config needs a YAML file")
            return args[:position] + args[position + 2 :], args[position + 1]
    return args, None


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML in which no mapping holds a key twice, and 1:4 is text, as on the command line: YAML 1.1 makes 64 of it."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {
        first: [(tag, PLAIN_INT if tag.endswith(":int") else pattern) for tag, pattern in resolvers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping. PyYAML itself would keep the last of two equal keys."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _load_yaml(path: str, config_class: type[JobConfig]) -> dict[str, Any]:
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
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
            values[name] = TypeAdapter(_annotated(info, info), config=NUMBERS_AS_TEXT).validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UserError(f"--config {path}: --{name.replace('_', '-')} {value!r}: {message}") from None
    return values


def _parse_flags(
    config_class: type[JobConfig], args: list[str], description: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The value of every field, unvalidated: pydantic validates once, with better messages than a parser."""
    fields: list[tuple[str, Any, Any]] = []
    for name, info in config_class.model_fields.items():
        metavar = name.upper() if tyro.conf.Positional in info.metadata else None
        kind = _annotated(info, tyro.conf.arg(help=info.description, metavar=metavar))
        if name in values or not info.is_required():
            default = values.get(name, info.get_default(call_default_factory=True))
            fields.append((name, kind, dataclasses.field(default_factory=functools.partial(copy.copy, default))))
        else:
            fields.append((name, kind, dataclasses.field()))
    flags = dataclasses.make_dataclass(config_class.__name__, fields, kw_only=True)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed: Any = tyro.cli(
                flags,
                prog=sys.argv[0] if sys.argv[0].startswith("sluice ") else f"python -m jobs.{verb()}",
                args=args,
                description=f"{description.strip()}\n\n--config FILE.yaml may hold any of these flags; flags win.",
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(errors.getvalue())) from None
    return {name: getattr(parsed, name) for name in config_class.model_fields}


def _annotated(info: FieldInfo, *extra: Any) -> Any:
    """The field's type with its bounds and markers, which pydantic keeps apart."""
    return Annotated[(info.annotation, *extra, *info.metadata)]


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    flag = "--" + str(first["loc"][0]).replace("_", "-")
    return message if flag in message else f"{flag} {first['input']!r}: {message}"


def _one_line(framed: str) -> str:
    """The one sentence that the user needs, from tyro's page: title, complaint and help, with a frame or without."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", framed).splitlines()
    parts = [
        [line[2:].rstrip(" │") for line in part]
        for is_rule, part in itertools.groupby(lines, lambda line: bool(re.fullmatch(r"[ │]*[─-]{5,}[ │]*", line)))
        if not is_rule
    ]
    complaint = parts[0][1:] or parts[1]
    said = " ".join(line.strip() for line in complaint)
    if said.startswith("Missing from"):
        said = "missing " + ", ".join(line.split()[0] for line in complaint if re.match(r" {4}\S", line))
    return said + "; --help lists all flags"
