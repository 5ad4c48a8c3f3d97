"""The report of a trained ranker: how well it orders and how honest its scores are."""

import json
from typing import Any, Final

from actors.ranking.folder import DESCRIPTION
from actors.runs.folder import RunFolder
from jobs.reports import plots
from jobs.reports.parts import Report

SHOWN_FEATURES: Final = 20


def build(run: RunFolder) -> Report:
    """Facts, the plot of calibration and that of the features that matter most."""
    described = json.loads((run.ranker / DESCRIPTION).read_bytes())
    measured, importance = described["measured"], described["importance"]
    total = sum(importance.values()) or 1.0
    facts = {
        "kind": described["kind"],
        "num_trees": described["num_trees"],
        "features": len(described["features"]),
        "measured": measured,
        "importance": {name: gain / total for name, gain in importance.items()},
    }
    shown = list(facts["importance"].items())[:SHOWN_FEATURES]
    return Report(facts, {"calibration": _plot_calibration(measured), "importance": _plot_importance(shown)})


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    return [f"ranker      {facts['num_trees']:,} trees over {facts['features']} features"] + [
        f"{name:<11} {_pairs(split)}, AUC {split['area_under_curve'] or float('nan'):.3f}, "
        f"calibration error {split['calibration_error']:.3f}; "
        f"{split['samples']:,} samples of {split['problems']:,} problems"
        for name, split in facts["measured"].items()
    ]


def _pairs(split: dict[str, Any]) -> str:
    pairs = split["pair_accuracy"]
    if pairs is None:
        return "no pairs of a right and a wrong sample"
    return f"{pairs['mean']:.3f} of pairs in the right order (95%: {pairs['low']:.3f} to {pairs['high']:.3f})"


def _plot_calibration(measured: dict[str, Any]) -> str:
    drawn, axes = plots.figure()
    axes.plot([0, 1], [0, 1], color=plots.GREY, linewidth=1)
    for (name, split), color in zip(measured.items(), (plots.BLUE, plots.ORANGE), strict=False):
        bins = split["reliability"]
        axes.plot(bins["scores"], bins["right"], "o-", markersize=3, linewidth=1.2, color=color, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=8)
    return plots.svg(drawn, axes, "score", "share of right samples")


def _plot_importance(shown: list[tuple[str, float]]) -> str:
    drawn, axes = plots.figure()
    drawn.set_size_inches(5.2, 4.2)
    names = [name for name, _ in shown][::-1]
    axes.barh(names, [share for _, share in shown][::-1], color=plots.BLUE)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(visible=False)
    return plots.svg(drawn, axes, "share of the gain of all splits", "")
