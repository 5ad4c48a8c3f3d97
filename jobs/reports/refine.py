"""The report of a refinement run: what was removed, what scoring cost, chains before and after."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.runs.folder import RunFolder
from actors.runs.record_kinds import REFINEMENT
from actors.runs.records import RecordStore
from actors.runs.totals import Totals
from jobs.reports import plots
from jobs.reports.parts import BUCKETS_PER_DECADE, Report, Reservoir, count_lengths, count_reasons, records_at

NUMBER_COLUMNS: Final = (
    "status", "reason", "edits.list.element.index", "ppl_original", "ppl_refined",
    "tokens_original", "tokens_refined",
)  # fmt: skip
RATIO_EDGES: Final = np.concatenate([np.linspace(0.0, 2.0, 41), [np.inf]])


@dataclass
class _Survey:
    """Counts from one pass over all records."""

    reasons: dict[str, Counter[str]] = field(
        default_factory=lambda: {status: Counter() for status in REFINEMENT.statuses}
    )
    removed: Counter[int] = field(default_factory=Counter)
    ratios: np.ndarray = field(default_factory=lambda: np.zeros(len(RATIO_EDGES) - 1, dtype=np.int64))
    before: Counter[int] = field(default_factory=Counter)  # tokens, in logarithmic buckets
    after: Counter[int] = field(default_factory=Counter)
    examples: Reservoir = field(default_factory=Reservoir)


def build(run: RunFolder) -> Report:
    """Facts, plots and examples, in bounded memory."""
    store = RecordStore(run)
    survey = _survey(store)
    drawn = {"removed": _plot_removed(survey), "ratio": _plot_ratio(survey), "tokens": _plot_tokens(survey)}
    examples = [_example(record) for record in records_at(store, survey.examples.rows)]
    return Report(_facts(survey, store.totals()), drawn, {"examples": examples})


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    rows, tokens, scored = facts["rows"], facts["reasoning_tokens"], facts["scoring"]
    return [
        f"rows        {rows['total']:,}: {rows['refined']:,} refined, {rows['unchanged']:,} unchanged, "
        f"{rows['quarantined']:,} quarantined",
        *(f"              {count:,} {reason}" for reason, count in facts["quarantined_by_reason"].items()),
        f"reasoning   {tokens['original']:,} -> {tokens['refined']:,} tokens ({-tokens['saved_fraction']:+.1%}), "
        f"{facts['steps_removed']:,} steps removed",
        f"scoring     {scored['tokens_forwarded']:,} tokens forwarded, {scored['ratio']:.2f} times fewer than "
        "one forward per variant",
    ]


def _survey(store: RecordStore) -> _Survey:
    survey = _Survey()
    number = 0
    for batch in store.batches(NUMBER_COLUMNS):
        for status, counts in survey.reasons.items():
            count_reasons(counts, batch, status)
        for offset, status in enumerate(batch["status"].to_pylist()):
            if status == "refined":
                survey.examples.offer(number + offset)
        removed = pc.list_value_length(batch["edits"]).fill_null(0).to_numpy(zero_copy_only=False)
        original, refined = (_floats(batch[name]) for name in ("ppl_original", "ppl_refined"))
        scored = ~np.isnan(original)
        survey.removed.update(removed[scored].tolist())
        with np.errstate(invalid="ignore"):
            survey.ratios += np.histogram((refined / original)[scored & (removed > 0)], RATIO_EDGES)[0]
        for counter, name in ((survey.before, "tokens_original"), (survey.after, "tokens_refined")):
            tokens = _floats(batch[name])
            count_lengths(counter, tokens[scored & (tokens > 0)])
        number += batch.num_rows
    return survey


def _floats(column: pa.Array) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _facts(survey: _Survey, totals: Totals) -> dict[str, Any]:
    saved = totals.sums["tokens_original"] - totals.sums["tokens_refined"]
    num_scored = totals.statuses["refined"] + totals.statuses["unchanged"]
    return {
        "rows": {"total": totals.num_rows, **{status: totals.statuses[status] for status in REFINEMENT.statuses}},
        "quarantined_by_reason": dict(survey.reasons["quarantined"].most_common()),
        "unchanged_by_reason": dict(survey.reasons["unchanged"].most_common()),
        "steps_removed": sum(number * rows for number, rows in survey.removed.items()),
        "rows_by_steps_removed": {str(number): survey.removed[number] for number in sorted(survey.removed)},
        "reasoning_tokens": {
            "original": totals.sums["tokens_original"],
            "refined": totals.sums["tokens_refined"],
            "saved_fraction": saved / totals.sums["tokens_original"] if totals.sums["tokens_original"] else 0.0,
            "mean_original": totals.sums["tokens_original"] / num_scored if num_scored else 0.0,
            "mean_refined": totals.sums["tokens_refined"] / num_scored if num_scored else 0.0,
        },
        "scoring": {
            "tokens_forwarded": totals.sums["tokens_scored"],
            "tokens_separate_forwards": totals.sums["tokens_naive"],
            "ratio": totals.sums["tokens_naive"] / totals.sums["tokens_scored"]
            if totals.sums["tokens_scored"]
            else 1.0,
            "forward_seconds": totals.sums["forward_seconds"],
        },
    }


def _example(record: dict[str, Any]) -> dict[str, Any]:
    """Replay the edits on the steps, leaving removed steps in their places."""
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


def _plot_removed(survey: _Survey) -> str:
    drawn, axes = plots.figure()
    numbers = sorted(survey.removed)
    axes.bar(numbers, [survey.removed[number] for number in numbers], color=plots.BLUE, width=0.8)
    if numbers and numbers[-1] <= 12:
        axes.set_xticks(range(numbers[-1] + 1))
    plots.whole_ticks(axes)
    return plots.svg(drawn, axes, "steps removed from a chain", "rows")


def _plot_ratio(survey: _Survey) -> str:
    drawn, axes = plots.figure()
    finite = RATIO_EDGES[:-1]
    width = finite[1] - finite[0]
    # The last bar holds everything above the axis.
    axes.bar(finite, survey.ratios, width=width, align="edge", color=plots.BLUE, edgecolor="white", linewidth=0.4)
    axes.axvline(1.0, color=plots.ORANGE, linewidth=1.2)
    used = np.flatnonzero(survey.ratios)
    if len(used):
        axes.set_xlim(finite[max(0, used[0] - 1)], finite[min(len(finite) - 1, max(used[-1], 20) + 1)] + width)
    plots.whole_ticks(axes)
    return plots.svg(drawn, axes, "perplexity after / before, refined rows", "rows")


def _plot_tokens(survey: _Survey) -> str:
    drawn, axes = plots.figure()
    for counter, color, label in ((survey.before, plots.GREY, "before"), (survey.after, plots.BLUE, "after")):
        plots.log_stairs(axes, counter, BUCKETS_PER_DECADE, color, label)
    plots.log_ticks(axes)
    axes.legend(frameon=False, fontsize=8)
    plots.whole_ticks(axes)
    return plots.svg(drawn, axes, "reasoning tokens of a chain", "rows")
