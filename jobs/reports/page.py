"""report.html and report.json of any run, from its folder alone and in bounded memory.

The report of a verb is the module of that name in this folder, with `build(run) -> Report` and
`summary(facts) -> list of lines`, and a template of that name, which extends page.html.j2.
"""

import importlib
import json
import math
from importlib.resources import files
from types import ModuleType
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from actors.errors import UserError
from actors.runs.commits import Commit
from actors.runs.folder import RunFolder
from actors.runs.manifest import Manifest
from actors.runs.records import RecordStore
from algorithms.row_errors import REASONS
from jobs.reports import plots
from jobs.reports.parts import clock


def write_report(output: RunFolder, manifest: Manifest) -> dict[str, Any]:
    """Write both files into the run's folder. Returns the facts in report.json."""
    report = _module(manifest.job).build(output)
    drawn = dict(report.plots)
    facts = {
        "command": manifest.sessions[-1].command if manifest.sessions else None,
        "status": manifest.status,
        "sessions": len(manifest.sessions),
        **report.facts,
    }
    if output.rows.exists():
        facts["throughput"] = _throughput(RecordStore(output).commits(), manifest)
        drawn["throughput"] = plots.throughput(facts["throughput"])
    loader = FunctionLoader(lambda name: (files(__package__) / name).read_text("utf-8"))
    page = (
        Environment(autoescape=True, loader=loader)
        .get_template(f"{manifest.job}.html.j2")
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
        output.report_json.write_bytes(json.dumps(facts, indent=2).encode())
        output.report_html.write_bytes(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"cannot write the report into {output.path}: {error.strerror or error}") from None
    return facts


def summary(facts: dict[str, Any], output: str, manifest: Manifest) -> str:
    """The facts as text for a terminal."""
    return "\n".join([*_module(manifest.job).summary(facts), f"report      {output.rstrip('/')}/report.html"])


def _module(job: str) -> ModuleType:
    """The report of a verb. Imported only when needed: the one of training imports torch and peft."""
    return importlib.import_module(f"{__package__}.{job}")


def _throughput(commits: list[Commit], manifest: Manifest) -> list[dict[str, float]]:
    """Rows per second over the working time, in at most 60 equal intervals for each session."""
    points: list[dict[str, float]] = []
    worked = 0.0
    starts = [session.started_at for session in manifest.sessions]
    if commits:
        starts[0] = min(starts[0], commits[0].committed_at)  # clocks differ between nodes, and are set back
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
