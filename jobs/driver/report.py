"""report.html and report.json of any run, from what lies in its folder alone, in bounded memory.

A job's report is a module with `build(run) -> Report` and `summary(facts) -> list of lines`, and its
template, which extends report.html.j2. To add one: the two files and an entry in REPORTS.
"""

import importlib
import json
import math
from importlib.resources import files
from types import MappingProxyType, ModuleType
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from actors.records import Commit, RecordStore
from actors.storage import Storage
from algorithms.row_errors import REASONS
from jobs.driver import plots
from jobs.driver.command import UserError
from jobs.driver.manifest import Manifest
from jobs.driver.progress import clock

REPORTS: Final = MappingProxyType(
    {"refine": "refinement", "sample": "sampling", "grade": "grading", "train": "training"}
)


def write_report(output: Storage, manifest: Manifest) -> dict[str, Any]:
    """Write both reports into the run's folder; the facts, as in report.json."""
    report = _of(manifest.job).build(output)
    drawn = dict(report.plots)
    facts = {
        "command": manifest.sessions[-1].command if manifest.sessions else None,
        "status": manifest.status,
        "sessions": len(manifest.sessions),
        **report.facts,
    }
    if (output / "rows").exists():
        facts["throughput"] = _throughput(RecordStore(output / "rows").commits(), manifest)
        drawn["throughput"] = plots.throughput(facts["throughput"])
    loader = FunctionLoader(lambda name: (files(__package__) / name).read_text("utf-8"))
    page = (
        Environment(autoescape=True, loader=loader)
        .get_template(report.template)
        .render(
            facts=facts,
            manifest=manifest,
            plots={name: Markup(svg) for name, svg in drawn.items()},
            reasons=REASONS,
            clock=clock,
            **report.shown,
        )
    )
    try:
        (output / "report.json").write_bytes(json.dumps(facts, indent=2).encode())
        (output / "report.html").write_bytes(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"cannot write the report into {output.path}: {error.strerror or error}") from None
    return facts


def summary(facts: dict[str, Any], output: str, manifest: Manifest) -> str:
    """The facts for a terminal."""
    return "\n".join([*_of(manifest.job).summary(facts), f"report      {output.rstrip('/')}/report.html"])


def _of(job: str) -> ModuleType:
    """What builds and sums up a job's report; imported when it is wanted, since training's brings torch and peft."""
    return importlib.import_module(f"{__package__}.{REPORTS[job]}_report")


def _throughput(commits: list[Commit], manifest: Manifest) -> list[dict[str, float]]:
    """Rows per second over the time a session was at work, in at most 60 equal pieces a session."""
    points: list[dict[str, float]] = []
    worked = 0.0
    starts = [session.started_at for session in manifest.sessions]
    for start, end in zip(starts, [*starts[1:], math.inf], strict=True):
        mine = [commit for commit in commits if start <= commit.committed_at < end]
        if not mine:
            continue
        length = max(1e-9, mine[-1].committed_at - start)
        pieces = min(60, len(mine))
        rows, _ = np.histogram(
            [commit.committed_at - start for commit in mine],
            bins=pieces,
            range=(0.0, length),
            weights=[commit.totals.num_rows for commit in mine],
        )
        for piece, count in enumerate(rows.tolist()):
            seconds = worked + (piece + 0.5) * length / pieces
            points.append({"seconds": seconds, "rows_per_second": count * pieces / length})
        worked += length
    return points
