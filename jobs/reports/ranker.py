"""The report of a trained ranker: how well it orders, how honest its scores are, and how it was trained."""

import json
from typing import Any, Final

from actors.ranking.folder import DESCRIPTION
from actors.runs.folder import RunFolder
from actors.runs.metrics import read_metrics
from jobs.reports import plots
from jobs.reports.parts import Report

SHOWN_FEATURES: Final = 20


def build(run: RunFolder) -> Report:
    """Facts, the plot of calibration, and those of the ranker's kind."""
    described = json.loads((run.ranker / DESCRIPTION).read_bytes())
    facts = {"kind": described["kind"], "measured": described["measured"]}
    drawn = {"calibration": _plot_calibration(described["measured"])}
    if described["kind"] == "boosted":
        total = sum(described["importance"].values()) or 1.0
        facts["num_trees"] = described["num_trees"]
        facts["features"] = len(described["features"])
        facts["importance"] = {name: gain / total for name, gain in described["importance"].items()}
        drawn["importance"] = _plot_importance(list(facts["importance"].items())[:SHOWN_FEATURES])
    else:
        lines = read_metrics(run.metrics)
        facts |= {name: described[name] for name in ("model", "loss", "window", "best_epoch")}
        facts["steps"] = lines[-1]["step"]
        facts["epochs"] = [
            {"epoch": line["epoch"], "validation_pair_accuracy": line["validation_pair_accuracy"]}
            for line in lines
            if "validation_pair_accuracy" in line
        ]
        drawn["loss"] = _plot_loss(lines)
        drawn["accuracy"] = _plot_accuracy(lines, described["best_epoch"])
    return Report(facts, drawn)


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    if facts["kind"] == "boosted":
        what = f"{facts['num_trees']:,} trees over {facts['features']} features"
    else:
        what = f"{facts['model']}, loss {facts['loss']}; best of {len(facts['epochs'])} epochs: {facts['best_epoch']}"
    return [f"ranker      {what}"] + [
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


def _plot_loss(lines: list[dict[str, Any]]) -> str:
    drawn, axes = plots.figure()
    points = [(line["epoch"], line["loss"]) for line in lines if "loss" in line]
    axes.plot(*zip(*points, strict=True), color=plots.BLUE, linewidth=1.5, marker="." * (len(points) < 3))
    axes.set_xlim(left=0)
    return plots.svg(drawn, axes, "epochs", "loss of a pair")


def _plot_accuracy(lines: list[dict[str, Any]], best_epoch: int) -> str:
    """Pairs in the right order: on the way in training, and on all validation problems after each epoch."""
    drawn, axes = plots.figure()
    for name, label, color, style in (
        ("pair_accuracy", "training", plots.GREY, "-"),
        ("validation_pair_accuracy", "validation", plots.BLUE, "o-"),
    ):
        points = [(line["epoch"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points, strict=True), style, color=color, linewidth=1.5, markersize=4, label=label)
    axes.axvline(best_epoch, color=plots.ORANGE, linewidth=1, linestyle="--", label="kept")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8)
    return plots.svg(drawn, axes, "epochs", "pairs in the right order")
