"""Another verb as a stage of this one: a run in a folder of its own, with the same checks, resumed the same way."""

import importlib
import typing
from typing import Any

from jobs.driver import command


def run_stage(verb: str, **flags: Any) -> int:
    """Run `jobs.VERB` with these flags in this process. Returns its exit status, and raises what it raises."""
    module = importlib.import_module(f"jobs.{verb}")
    config_class = typing.get_type_hints(module.run)["config"]
    status: int = module.run(command.validated(config_class, flags))
    return status
