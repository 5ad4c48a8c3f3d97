"""The report of an evaluation: votes, groups, pass@k, replays of stopping rules, and how honest the posterior is."""

import json
from typing import Any, Final

from actors.runs.folder import RunFolder
from jobs.reports import plots
from jobs.reports.parts import Report

COLORS: Final = {
    "sc": plots.GREY, "ws": "#7f6a93", "asc": "#5f9ea0", "asc+1": "#8fbc8f", "asc+2": "#6b8e6b",
    "posterior": plots.BLUE, "first": "#d2b48c", "oracle": "#b0b7bd",
    "fixed": plots.GREY, "beta": "#7f6a93", "window": "#d2a24c", "cges": "#5f9ea0", "beta-weighted": plots.BLUE,
    "gain": plots.ORANGE,
}  # fmt: skip
NOT_DRAWN: Final = frozenset({"oracle", "first"})  # bounds that would flatten the plot


def build(run: RunFolder) -> Report:
    """Facts and plots of the numbers in the run's folder."""
    facts = json.loads(run.evaluation.read_bytes())
    drawn = {"by_samples": _plot_by_samples(facts), "pass_at": _plot_pass_at(facts)}
    if facts["rules"]:
        drawn["rules"] = _plot_rules(facts)
    if facts["confidence"]:
        drawn["confidence"] = _plot_confidence(facts["confidence"])
    if facts["perplexity"]:
        drawn["perplexity"] = _plot_perplexity(facts)
    return Report(facts, drawn)


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    lines = [
        f"problems    {facts['problems']:,}, {facts['samples']:,} samples "
        f"({facts['samples_per_problem']:.1f} and {facts['tokens_per_problem']:,.0f} {facts['unit']} a problem), "
        f"{facts['right_samples']:.1%} right",
        *(f"              {count:,} without grades: {reason}" for reason, count in facts["unused"].items()),
    ]
    for vote, found in facts["votes"].items():
        accuracy, difference = found["accuracy"], found["difference"]
        line = f"{vote:<11} {accuracy['mean']:.1%} (95%: {accuracy['low']:.1%} to {accuracy['high']:.1%})"
        if vote != facts["reference"]:
            line += (
                f", {100 * difference['mean']:+.2f} points over {facts['reference']} "
                f"({100 * difference['low']:+.2f} to {100 * difference['high']:+.2f})"
            )
        lines.append(line)
    for rule, found in facts["rules"].items():
        lines.append(f"{rule:<14} {_suggested(found['suggestion'], facts['rule_vote'])}")
    return lines


def _suggested(suggestion: dict[str, Any] | None, vote: str) -> str:
    if suggestion is None:
        return "reaches the accuracy of all samples at no threshold"
    point, lost = suggestion["point"], suggestion["difference"]
    return (
        f"{point['num_samples']['mean']:.2f} samples at threshold {point['threshold']:.4g}: "
        f"{100 * lost['mean']:+.2f} points ({100 * lost['low']:+.2f} to {100 * lost['high']:+.2f}) to {vote} over all"
    )


def _plot_by_samples(facts: dict[str, Any]) -> str:
    drawn, axes = plots.figure()
    for vote, values in facts["by_samples"].items():
        if vote not in NOT_DRAWN:
            numbers = range(1, len(values) + 1)
            axes.plot(numbers, [100 * value for value in values], color=COLORS[vote], label=vote, linewidth=1.6)
    axes.legend(frameon=False, fontsize=8)
    plots.whole_ticks_x(axes)
    return plots.svg(drawn, axes, "samples", "accuracy in %")


def _plot_rules(facts: dict[str, Any]) -> str:
    drawn, axes = plots.figure()
    for rule, found in facts["rules"].items():
        points = sorted((point["num_samples"]["mean"], 100 * point["accuracy"]["mean"]) for point in found["curve"])
        width = 2.2 if rule == "gain" else 1.3
        axes.plot(*zip(*points, strict=True), color=COLORS[rule], label=rule, linewidth=width)
    axes.legend(frameon=False, fontsize=8)
    return plots.svg(drawn, axes, "samples used, on average", f"accuracy of {facts['rule_vote']} in %")


def _plot_pass_at(facts: dict[str, Any]) -> str:
    drawn, axes = plots.figure()
    numbers = [int(k) for k in facts["pass_at"]]
    values = facts["pass_at"].values()
    axes.plot(numbers, [100 * each["mean"] for each in values], "o-", color=plots.BLUE, markersize=4, linewidth=1.5)
    axes.fill_between(
        numbers,
        [100 * each["low"] for each in values],
        [100 * each["high"] for each in values],
        color=plots.BLUE,
        alpha=0.15,
    )
    axes.set_xscale("log")
    axes.set_xticks(numbers, labels=[str(k) for k in numbers])
    axes.minorticks_off()
    return plots.svg(drawn, axes, "k", "pass@k in %")


def _plot_confidence(found: dict[str, Any]) -> str:
    drawn, axes = plots.figure()
    axes.plot([0, 1], [0, 1], color=plots.GREY, linewidth=1)
    axes.plot(found["claimed"], found["accuracy"], "o-", color=plots.BLUE, markersize=4, linewidth=1.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return plots.svg(drawn, axes, "probability of the answer", "share of right answers")


def _plot_perplexity(facts: dict[str, Any]) -> str:
    drawn, axes = plots.figure()
    bins = facts["perplexity"]["bins"]
    xs, ys = [each["perplexity"] for each in bins], [100 * each["accuracy"] for each in bins]
    axes.plot(xs, ys, "o-", color=plots.BLUE, markersize=4, linewidth=1.5)
    return plots.svg(drawn, axes, "perplexity of a problem's samples", f"accuracy of {facts['reference']} in %")
