"""The report of a training run: loss curves, the data that was used and not used, and the settings."""

import itertools
import json
import statistics
from typing import Any, Final

from actors.runs import manifest
from actors.runs.folder import RunFolder
from actors.runs.metrics import read_metrics
from algorithms.lessons import UNUSED
from algorithms.methods import METHODS, OWN_SETTINGS
from jobs.reports import plots
from jobs.reports.parts import Report

NOT_METRICS: Final = ("step", "time", "epoch", "total_flos", "train_samples_per_second", "train_steps_per_second")
TITLES: Final = {"grad_norm": "gradient norm, before clipping", "num_tokens": "tokens between two logs"}


def build(run: RunFolder) -> Report:
    """Facts, and the curves of all logged metrics."""
    record = manifest.load(run)
    assert record is not None, "a report is written only for a run"
    lines = read_metrics(run.metrics)
    examples: dict[str, Any] = {"train": 0, "validation": 0, "tokens": 0, "unused": {}}
    if run.examples_done.exists():
        examples = json.loads(run.examples_done.read_bytes())
    logged = [line for line in lines if "loss" in line]
    last = {
        name: (value, line["step"])
        for line in lines
        for name, value in line.items()
        if name not in (*NOT_METRICS, "learning_rate", "grad_norm", "num_tokens", "train_runtime", "train_loss")
    }
    method = METHODS[record.identity["method"]]
    steps = [line["step"] for line in logged]
    seen = (steps or [0])[-1] * record.identity["training"]["batch_size"]
    facts = {
        "method": record.identity["method"],
        "method_is": method.what,
        "equation": method.equation,
        "data": list(record.config["data"]),
        "steps": steps[-1] if steps else 0,
        "passes": seen / examples["train"] if examples["train"] else 0.0,
        "metrics": {name: round(value, 6) for name, (value, _) in last.items()},
        "metrics_at": {name: step for name, (_, step) in last.items()},
        "examples": examples,
        "tokens_per_second": _rate(logged),
    }
    drawn = {"loss": _curves(lines, ("loss", "eval_loss"))}
    names = sorted({name for line in logged for name in line} - {*NOT_METRICS, "loss"})
    others = {TITLES.get(name, name.replace("_", " ")): _curves(logged, (name,)) for name in names}
    shown = {"curves": others, "unused_means": UNUSED, "settings": settings(record.identity)}
    return Report(facts, drawn, shown)


def settings(identity: dict[str, Any]) -> dict[str, Any]:
    """The settings that the run's method reads."""
    own = METHODS[identity["method"]].own_settings
    all_of = {**identity["adapter"], **identity["loss"], **identity["training"]}
    idle = {"epochs" if all_of["max_steps"] else "max_steps", *(OWN_SETTINGS.difference(own))}
    if all_of["precompute"] != "top-k":
        idle.add("top_k")
    return {name: value for name, value in all_of.items() if name not in idle}


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    examples = facts["examples"]
    metrics = ", ".join(
        f"{name} {value:.4g}" + (f" (step {step:,})" if step != facts["steps"] else "")
        for (name, value), step in zip(facts["metrics"].items(), facts["metrics_at"].values(), strict=True)
    )
    return [
        f"examples    {examples['train']:,} for training, {examples['validation']:,} for validation",
        *(f"              {count:,} not used: {reason}" for reason, count in examples["unused"].items()),
        f"steps       {facts['steps']:,}, {facts['passes']:.3g} passes over the examples",
        *([f"              at the end: {metrics}"] if metrics else []),
    ]


def _rate(logged: list[dict[str, Any]]) -> float | None:
    """Tokens per second without padding: the median over the intervals between two logs."""
    rates = [
        later["num_tokens"] / (later["time"] - line["time"])
        for line, later in itertools.pairwise(logged)
        if later["time"] > line["time"]
    ]
    return statistics.median(rates) if rates else None


def _curves(lines: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    drawn, axes = plots.figure()
    for name, color in zip(names, (plots.BLUE, plots.ORANGE), strict=False):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(
                *zip(*points, strict=True), color=color, linewidth=1.5, label=name, marker="." * (len(points) < 3)
            )
    if len(names) > 1 and axes.lines:
        axes.legend(frameon=False, fontsize=8)
    plots.whole_ticks_x(axes)
    return plots.svg(drawn, axes, "step", names[0].replace("_", " "))
