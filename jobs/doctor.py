"""Look for what would keep a run on this cluster from finishing, and say how to mend it.

    python -m jobs.doctor --output s3://corpora/probe --model meta-llama/Llama-3.1-8B
    python -m jobs.doctor --for refine --config jobs/refine.yaml

Asks every node of the cluster at RAY_ADDRESS, or of a local Ray: versions, GPUs, memory, disks, clocks and ports. With
--output every node writes there and looks for what the others wrote; with --model one node loads it and times a forward
pass. --for stands last: the verb and its flags follow, and the doctor says whether that run fits and what it takes.

Exit status: 0 nothing worse than warnings, 1 problems, 2 the command line is wrong.
"""

import math
import os
import shutil
import sys
import textwrap
from typing import Annotated, Final

import tyro
from pydantic import Field

from actors.errors import UserError
from jobs import VERBS
from jobs.driver import cluster, command, corpus_run
from jobs.driver.command import JobConfig
from jobs.driver.findings import Finding, findings
from jobs.driver.fitting import Needs, fit, needs_of, num_input_bytes, supply_for
from jobs.driver.surveying import Trial, survey

FOR: Final = "--for"
LINE_WIDTH: Final = 100
INDENT: Final = 24


class DoctorConfig(JobConfig):
    """Flags of `jobs.doctor`."""

    output: str | None = None
    """Folder or URI where runs will be. Each node writes 16 MiB there, and looks for what the others wrote."""
    model: str | None = None
    """Model that all nodes must find, and one loads: smollm2, a folder or a hub name."""
    seconds_per_check: float = Field(default=120.0, gt=0)
    """How long to wait for a node. One that does not answer is a problem."""
    for_: Annotated[str | None, tyro.conf.arg(name="for", metavar="VERB FLAGS")] = None
    """A verb and its flags, --config FILE.yaml among them: does this run fit, and what does it take? Its output and its
    model are looked at as well. Must come last."""
    line: Annotated[tuple[str, ...], tyro.conf.Suppress] = Field(default=(), description="The verb's flags.")


def main() -> None:
    """Entry point of `python -m jobs.doctor`."""
    own, line = _split(sys.argv[1:])
    sys.argv = [sys.argv[0], *own]
    given = {"for_": line[0], "line": tuple(line[1:])} if line else {}
    command.main(DoctorConfig, run, __doc__ or "", lambda _: given)


def run(config: DoctorConfig) -> int:
    """Ask all nodes, print one line for each finding. Returns the exit status."""
    needs = _needs(config)
    input_bytes = num_input_bytes(needs) if needs else 0
    trial = needs.trial if needs else None
    if config.model:
        ask = needs.ask if needs else cluster.Ask(1, 0)
        trial = Trial(config.model, needs.dtype if needs else "float32", ask, needs.num_threads if needs else None)
    output = config.output or (needs.output if needs else None)
    slots = max(os.cpu_count() or 1, math.ceil(needs.most * needs.ask.cpus) if needs else 1) + corpus_run.READ_SLOTS
    with cluster.connect(slots) as joined:
        where = "a local Ray" if joined.is_local else f"the cluster at {os.environ.get('RAY_ADDRESS')}"
        print(f"asking {where} ...", flush=True)
        facts = survey(output, trial, config.seconds_per_check)
        found = findings(facts)
        if needs is not None:
            found += fit(needs, supply_for(needs, input_bytes, facts), facts)
    for finding in found:
        print(_line(finding))
    problems, warnings = (sum(each.level == level for each in found) for level in ("problem", "warning"))
    print(f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}")
    return 1 if problems else 0


def _split(args: list[str]) -> tuple[list[str], list[str]]:
    """The doctor's own arguments, and those after --for."""
    for position, arg in enumerate(args):
        if arg == FOR and position + 1 < len(args):
            return args[:position], args[position + 1 :]
        if arg.startswith(f"{FOR}="):
            return args[:position], [arg.partition("=")[2], *args[position + 1 :]]
    return args, []


def _needs(config: DoctorConfig) -> Needs | None:
    if config.for_ is None:
        return None
    verb = config.for_.replace("-", "_")
    if verb not in VERBS:
        raise UserError(f"--for {config.for_}: no such verb; the verbs are {', '.join(VERBS)}")
    return needs_of(verb, command.config_of(verb, config.line))


def _line(finding: Finding) -> str:
    """One finding, wrapped to the terminal, with the mend on a line of its own."""
    width = max(60, min(LINE_WIDTH, shutil.get_terminal_size((LINE_WIDTH, 24)).columns))
    head = f"{finding.level:<8} {finding.subject:<13}  "
    parts = [(head, finding.text)]
    if finding.mend:
        parts.append((" " * (INDENT - 3) + "-> ", finding.mend))
    return "\n".join(
        textwrap.fill(text, width, initial_indent=start, subsequent_indent=" " * INDENT, break_on_hyphens=False)
        for start, text in parts
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    main()
