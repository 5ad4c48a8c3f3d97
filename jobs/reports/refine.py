"""The report of a refinement run: what was removed, what scoring cost, chains before and after."""

import math
from collections import Counter
from collections.abc import Mapping
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
    "status", "reason", "edits.list.element.action", "merges.list.element.outcome", "ppl_original", "ppl_refined",
    "tokens_original", "tokens_refined", "control_ppl", "control_tokens",
)  # fmt: skip
NORMAL_95: Final = 1.96  # standard errors
RATIO_EDGES: Final = np.concatenate([np.linspace(0.0, 2.0, 41), [np.inf]])


CHANGES: Final = ("refined", "control", "difference")
TOKEN_COLUMNS: Final = ("tokens_original", "tokens_refined", "control_tokens")


@dataclass
class _Moments:
    """The number of some values, their sum and the sum of their squares."""

    num: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take in values [N]."""
        self.num += len(values)
        self.total += float(values.sum())
        self.squares += float((values**2).sum())

    def ratio(self) -> list[float] | None:
        """The exponential of the mean, and of its 95% interval; None for no values."""
        if self.num == 0:
            return None
        mean = self.total / self.num
        spread = math.sqrt(max(0.0, self.squares / self.num - mean**2) / self.num) * NORMAL_95
        return [math.exp(value) for value in (mean, mean - spread, mean + spread)]


@dataclass
class _Control:
    """Sums over the rows of the control. The logarithms of perplexity, after / before, come one for each row."""

    num_rows: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    changes: dict[str, _Moments] = field(default_factory=lambda: {name: _Moments() for name in CHANGES})

    def add(self, original: np.ndarray, refined: np.ndarray, control: np.ndarray, tokens: Mapping[str, int]) -> None:
        """Take in some rows' perplexities [N], and the sums of their tokens."""
        self.num_rows += len(control)
        self.tokens.update(tokens)
        changes = np.log(refined / original), np.log(control / original), np.log(refined / control)
        for name, values in zip(CHANGES, changes, strict=True):
            self.changes[name].add(values[np.isfinite(values)])


@dataclass
class _Survey:
    """Counts from one pass over all records."""

    reasons: dict[str, Counter[str]] = field(
        default_factory=lambda: {status: Counter() for status in REFINEMENT.statuses}
    )
    removed: Counter[int] = field(default_factory=Counter)
    merged: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)  # of merges
    control: _Control = field(default_factory=_Control)
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
    merges = facts["merges"]
    merged = f", {merges['accepted']:,} of {merges['tried']:,} merges accepted" if merges["tried"] else ""
    control = [_control_line(facts["control"])] if facts["control"] else []
    return [
        f"rows        {rows['total']:,}: {rows['refined']:,} refined, {rows['unchanged']:,} unchanged, "
        f"{rows['quarantined']:,} quarantined",
        *(f"              {count:,} {reason}" for reason, count in facts["quarantined_by_reason"].items()),
        f"reasoning   {tokens['original']:,} -> {tokens['refined']:,} tokens ({-tokens['saved_fraction']:+.1%}), "
        f"{facts['steps_removed']:,} steps removed{merged}",
        *control,
        f"scoring     {scored['tokens_forwarded']:,} tokens forwarded, {scored['ratio']:.2f} times fewer than "
        "one forward per variant",
    ]


def _control_line(control: dict[str, Any]) -> str:
    ours, random = (
        f"{-control['tokens'][name] / max(1, control['tokens']['original']) + 1:.1%} fewer tokens at "
        f"{control['ppl_ratio'][name][0]:.3f} times the perplexity"
        for name in ("refined", "control")
    )
    return f"control     {control['rows']:,} rows: {ours}; at random {random}"


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
        survey.merged += pc.sum(pc.equal(pc.list_flatten(batch["edits"]).field("action"), "merge")).as_py() or 0
        survey.outcomes.update(pc.list_flatten(batch["merges"]).field("outcome").to_pylist())
        original, refined = (_floats(batch[name]) for name in ("ppl_original", "ppl_refined"))
        control = _floats(batch["control_ppl"])
        both = ~np.isnan(control)
        sums = {
            name: int(np.nansum(_floats(batch[column])[both]))
            for name, column in zip(("original", *CHANGES), TOKEN_COLUMNS, strict=False)
        }
        survey.control.add(original[both], refined[both], control[both], sums)
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
        "steps_removed": sum(number * rows for number, rows in survey.removed.items()) - survey.merged,
        "steps_merged": survey.merged,
        "merges": {
            "tried": survey.outcomes.total(),
            "accepted": survey.outcomes["accepted"],
            "by_outcome": dict(survey.outcomes.most_common()),
        },
        "control": _control_facts(survey.control),
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


def _control_facts(control: _Control) -> dict[str, Any] | None:
    """Perplexity after / before, geometric means with 95% intervals, on the rows of the control; None without any."""
    if control.num_rows == 0:
        return None
    return {
        "rows": control.num_rows,
        "tokens": {name: control.tokens[name] for name in ("original", "refined", "control")},
        "ppl_ratio": {name: moments.ratio() for name, moments in control.changes.items()},
    }


def _example(record: dict[str, Any]) -> dict[str, Any]:
    """Replay the edits on the steps, leaving removed steps in their places."""
    shown = [{"text": text, "fate": "kept"} for text in record["steps"]]
    for edit in record["edits"]:
        alive = [step for step in shown if step["fate"] in ("kept", "merged")]
        step = alive[edit["index"]]
        if edit["ratio"] is not None:
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
