"""The report of a comparison of evaluations: paired differences of their votes."""

import json
from typing import Any

from actors.runs.folder import RunFolder
from jobs.reports import plots
from jobs.reports.parts import Report


def build(run: RunFolder) -> Report:
    """Facts, and the plot of accuracy against perplexity if there are enough levels for one."""
    facts = json.loads(run.evaluation.read_bytes())
    return Report(facts, {"levels": _plot_levels(facts)} if facts["correlation"] else {})


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    lines = [f"{facts['problems']:,} problems in common"]
    width = max(len(vote) for vote in facts["votes"])
    for comparison in facts["comparisons"]:
        lines.append(f"{comparison['run']} against {comparison['against']}")
        for vote, found in comparison["votes"].items():
            first, second, difference = found["first"], found["second"], found["difference"]
            lines.append(
                f"  {vote:<{width}}  {first['mean']:.1%} -> {second['mean']:.1%}, "
                f"{100 * difference['mean']:+.2f} points "
                f"({100 * difference['low']:+.2f} to {100 * difference['high']:+.2f}), p = {found['p_value']:.4f}; "
                f"better on {found['better']:,} problems, worse on {found['worse']:,}"
            )
    if facts["correlation"]:
        found = facts["correlation"]
        interval = "" if found["low"] is None else f" (95%: {found['low']:.2f} to {found['high']:.2f})"
        lines.append(f"perplexity and accuracy over {found['levels']} levels: r = {found['r']:.2f}{interval}")
    return lines


def _plot_levels(facts: dict[str, Any]) -> str:
    drawn, axes = plots.figure()
    vote = facts["votes"][0]
    runs = sorted(facts["runs"], key=lambda each: each["perplexity"])
    axes.plot([run["perplexity"] for run in runs], [run["accuracy"][vote] for run in runs], "o", color=plots.BLUE)
    return plots.svg(drawn, axes, "perplexity of the samples", f"accuracy of {vote}")
