"""report.html and report.json of a refinement run, from its committed records alone, in bounded memory."""

import io
import json
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

import numpy as np
import pyarrow as pa
from jinja2 import Environment
from markupsafe import Markup

from actors.records import STATUSES, Commit, RecordStore
from actors.storage import Storage
from algorithms.formats import REASONS
from jobs.driver.command import UserError
from jobs.driver.manifest import Manifest
from jobs.driver.progress import clock

NUM_EXAMPLES: Final = 12
NUMBER_COLUMNS: Final = (
    "status", "reason", "edits.list.element.index", "ppl_original", "ppl_refined",
    "tokens_original", "tokens_refined",
)  # fmt: skip
RATIO_EDGES: Final = np.concatenate([np.linspace(0.0, 2.0, 41), [np.inf]])
INK, BLUE, ORANGE, GREY = "#1c2733", "#2f6f9f", "#c8662b", "#9aa5ae"


@dataclass
class _Survey:
    """What one pass over the numbers of all records gathers."""

    reasons: dict[str, Counter[str]] = field(default_factory=lambda: {status: Counter() for status in STATUSES})
    removed: Counter[int] = field(default_factory=Counter)
    merged_rows: int = 0
    ratios: np.ndarray = field(default_factory=lambda: np.zeros(len(RATIO_EDGES) - 1, dtype=np.int64))
    before: Counter[int] = field(default_factory=Counter)  # tokens, in buckets of a tenth of a decade
    after: Counter[int] = field(default_factory=Counter)
    example_rows: list[int] = field(default_factory=list)


def write_report(output: Storage, store: RecordStore, manifest: Manifest) -> dict[str, Any]:
    """Write both reports beside the rows; the facts, as in report.json."""
    survey = _survey(store)
    facts = _facts(survey, store, manifest)
    plots = {
        "removed": _plot_removed(survey),
        "ratio": _plot_ratio(survey),
        "tokens": _plot_tokens(survey),
        "throughput": _plot_throughput(facts["throughput"]),
    }
    template = Environment(autoescape=True).from_string((files(__package__) / "report.html.j2").read_text("utf-8"))
    page = template.render(
        facts=facts,
        manifest=manifest,
        plots={name: Markup(svg) for name, svg in plots.items()},
        examples=_examples(store, survey.example_rows),
        reasons=REASONS,
        clock=clock,
    )
    try:
        (output / "report.json").write_bytes(json.dumps(facts, indent=2).encode())
        (output / "report.html").write_bytes(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"cannot write the report into {output.path}: {error.strerror or error}") from None
    return facts


def summary(facts: dict[str, Any], output: str) -> str:
    """The facts for a terminal."""
    rows, tokens, scored = facts["rows"], facts["reasoning_tokens"], facts["scoring"]
    lines = [
        f"rows        {rows['total']:,}: {rows['refined']:,} refined, {rows['unchanged']:,} unchanged, "
        f"{rows['quarantined']:,} quarantined",
        *(f"              {count:,} {reason}" for reason, count in facts["quarantined_by_reason"].items()),
        f"reasoning   {tokens['original']:,} -> {tokens['refined']:,} tokens ({-tokens['saved_fraction']:+.1%}), "
        f"{facts['steps_removed']:,} steps removed",
        f"scoring     {scored['tokens_forwarded']:,} tokens forwarded, {scored['ratio']:.2f} times fewer than "
        "one forward per variant",
        f"report      {output.rstrip('/')}/report.html",
    ]
    return "\n".join(lines)


def _survey(store: RecordStore) -> _Survey:
    survey = _Survey()
    chooser = random.Random(0)
    num_refined = number = 0
    for batch in store.batches(NUMBER_COLUMNS):
        removed = pa.compute.list_value_length(batch["edits"]).fill_null(0).to_numpy(zero_copy_only=False)
        original, refined = (_floats(batch[name]) for name in ("ppl_original", "ppl_refined"))
        tokens = [_floats(batch[name]) for name in ("tokens_original", "tokens_refined")]
        for offset, (status, reason) in enumerate(
            zip(batch["status"].to_pylist(), batch["reason"].to_pylist(), strict=True)
        ):
            if reason is not None:
                survey.reasons[status][reason.split(":", 1)[0]] += 1
            if status == "refined":
                num_refined += 1
                _reservoir(survey.example_rows, number + offset, num_refined, chooser)
        scored = ~np.isnan(original)
        survey.removed.update(removed[scored].tolist())
        with np.errstate(invalid="ignore"):
            survey.ratios += np.histogram((refined / original)[scored & (removed > 0)], RATIO_EDGES)[0]
        for counter, values in zip((survey.before, survey.after), tokens, strict=True):
            positive = values[scored & (values > 0)]
            counter.update(np.floor(np.log10(positive) * 10).astype(int).tolist())
        number += batch.num_rows
    return survey


def _reservoir(rows: list[int], row: int, seen: int, chooser: random.Random) -> None:
    """Keep a uniform sample of a stream (Vitter's algorithm R)."""
    if len(rows) < NUM_EXAMPLES:
        rows.append(row)
    elif (slot := chooser.randrange(seen)) < NUM_EXAMPLES:
        rows[slot] = row


def _floats(column: pa.Array) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _facts(survey: _Survey, store: RecordStore, manifest: Manifest) -> dict[str, Any]:
    totals = store.totals()
    saved = totals.tokens_original - totals.tokens_refined
    num_scored = totals.rows["refined"] + totals.rows["unchanged"]
    return {
        "command": manifest.sessions[-1].command if manifest.sessions else None,
        "status": manifest.status,
        "sessions": len(manifest.sessions),
        "rows": {"total": totals.num_rows, **{status: totals.rows[status] for status in STATUSES}},
        "quarantined_by_reason": dict(survey.reasons["quarantined"].most_common()),
        "unchanged_by_reason": dict(survey.reasons["unchanged"].most_common()),
        "steps_removed": sum(number * rows for number, rows in survey.removed.items()),
        "rows_by_steps_removed": {str(number): survey.removed[number] for number in sorted(survey.removed)},
        "reasoning_tokens": {
            "original": totals.tokens_original,
            "refined": totals.tokens_refined,
            "saved_fraction": saved / totals.tokens_original if totals.tokens_original else 0.0,
            "mean_original": totals.tokens_original / num_scored if num_scored else 0.0,
            "mean_refined": totals.tokens_refined / num_scored if num_scored else 0.0,
        },
        "scoring": {
            "tokens_forwarded": totals.tokens_scored,
            "tokens_separate_forwards": totals.tokens_naive,
            "ratio": totals.tokens_naive / totals.tokens_scored if totals.tokens_scored else 1.0,
            "forward_seconds": totals.forward_seconds,
        },
        "throughput": _throughput(store.commits(), manifest),
    }


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


def _examples(store: RecordStore, rows: list[int]) -> list[dict[str, Any]]:
    """Some refined chains: each original step, and whether it was removed or merged away."""
    wanted, number = set(rows), 0
    found: list[dict[str, Any]] = []
    for batch in store.batches():
        for offset in sorted(row - number for row in wanted if number <= row < number + batch.num_rows):
            found.append(_example(batch.slice(offset, 1).to_pylist()[0]))
        number += batch.num_rows
    return found


def _example(record: dict[str, Any]) -> dict[str, Any]:
    """Replay the edits on the steps, keeping what they took away in its place."""
    shown = [{"text": text, "fate": "kept"} for text in record["steps"]]
    for edit in record["edits"]:
        alive = [step for step in shown if step["fate"] in ("kept", "merged")]
        step = alive[edit["index"]]
        step["ratio"] = edit["ratio"]
        if edit["action"] == "merge":
            alive[edit["index"] + 1]["fate"] = "removed"
            step.update(fate="merged", text=edit["after"])
        else:
            step["fate"] = "removed"
    return {
        "id": record["id"],
        "question": record["question"],
        "steps": shown,
        "tokens": (record["tokens_original"], record["tokens_refined"]),
        "ppl": (record["ppl_original"], record["ppl_refined"]),
    }


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis="y", color="#e6eaed", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any, axes: Any, xlabel: str, ylabel: str) -> str:
    import matplotlib

    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    sink = io.StringIO()
    # Text stays text, so that the page can be searched and stays small.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sluice"}):
        figure.savefig(sink, format="svg", metadata={"Date": None}, transparent=True)
    return sink.getvalue()[sink.getvalue().index("<svg") :]


def _whole_ticks(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def _plot_removed(survey: _Survey) -> str:
    figure, axes = _figure()
    numbers = sorted(survey.removed)
    axes.bar(numbers, [survey.removed[number] for number in numbers], color=BLUE, width=0.8)
    if numbers and numbers[-1] <= 12:
        axes.set_xticks(range(numbers[-1] + 1))
    _whole_ticks(axes)
    return _svg(figure, axes, "steps removed from a chain", "rows")


def _plot_ratio(survey: _Survey) -> str:
    figure, axes = _figure()
    finite = RATIO_EDGES[:-1]
    width = finite[1] - finite[0]
    # The last bar holds everything above the axis.
    axes.bar(finite, survey.ratios, width=width, align="edge", color=BLUE, edgecolor="white", linewidth=0.4)
    axes.axvline(1.0, color=ORANGE, linewidth=1.2)
    used = np.flatnonzero(survey.ratios)
    if len(used):
        axes.set_xlim(finite[max(0, used[0] - 1)], finite[min(len(finite) - 1, max(used[-1], 20) + 1)] + width)
    _whole_ticks(axes)
    return _svg(figure, axes, "perplexity after / before, refined rows", "rows")


def _plot_tokens(survey: _Survey) -> str:
    figure, axes = _figure()
    for counter, color, label in ((survey.before, GREY, "before"), (survey.after, BLUE, "after")):
        buckets = range(min(counter), max(counter) + 2) if counter else range(2)
        edges = 10 ** (np.asarray(buckets) / 10)
        axes.stairs([counter[bucket] for bucket in buckets[:-1]], edges, color=color, label=label, linewidth=1.8)
    axes.set_xscale("log")
    axes.set_xlabel("")
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8)
    _whole_ticks(axes)
    return _svg(figure, axes, "reasoning tokens of a chain", "rows")


def _plot_throughput(points: list[dict[str, float]]) -> str:
    figure, axes = _figure()
    xs, ys = ([point[name] for point in points] for name in ("seconds", "rows_per_second"))
    axes.step(xs, ys, where="mid", color=BLUE, linewidth=1.5)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    return _svg(figure, axes, "seconds at work", "rows per second")
