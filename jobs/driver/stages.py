"""Another verb as a stage of this one: a run in a folder of its own, with the same checks, resumed the same way."""

import difflib
import importlib
import typing
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from actors.errors import UserError
from jobs import VERBS
from jobs.driver import command
from jobs.driver.command import JobConfig


def run_stage(verb: str, **flags: Any) -> int:
    """Run `jobs.VERB` with these flags in this process. Returns its exit status, and raises what it raises."""
    module = importlib.import_module(f"jobs.{verb}")
    status: int = module.run(command.validated(_config_class(module, flags), flags))
    return status


def stage_config(verb: str, flags: Mapping[str, Any]) -> JobConfig:
    """The config that `jobs.VERB` would make of these flags. Raises UserError for what it would refuse."""
    if verb not in VERBS:
        raise UserError(f"there is no verb {verb!r}; the verbs are {', '.join(VERBS)}")
    module = importlib.import_module(f"jobs.{verb}")
    config_class = _config_class(module, flags)
    fields = config_class.model_fields
    if "output" not in fields or verb == "pipeline":
        raise UserError(f"{verb} cannot be a stage: it leaves no output that another stage could read")
    for name in flags:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {_flag(close[0])}?" if close else f"python -m jobs.{verb} --help lists all flags"
            raise UserError(f"{verb} has no flag {_flag(name)}: {hint}")
    missing = [_flag(name) for name, field in fields.items() if field.is_required() and name not in flags]
    if missing:
        raise UserError(f"{verb} needs {', '.join(missing)}")
    values = {name: field.get_default(call_default_factory=True) for name, field in fields.items()} | dict(flags)
    recipe_defaults = getattr(module, "recipe_defaults", None)  # of a verb whose recipes set defaults
    return command.validated(config_class, {**(recipe_defaults(values) if recipe_defaults else {}), **flags})


def _config_class(module: ModuleType, flags: Mapping[str, Any]) -> type[JobConfig]:
    """That of the argument of the verb's `run`, unless the verb has several."""
    choose = getattr(module, "config_class", None)
    return choose(flags) if choose else typing.get_type_hints(module.run)["config"]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
