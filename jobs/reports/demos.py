"""The report of shortened demonstrations: perplexity along the path beside the random control, before and after."""

import json
import statistics
from typing import Any

from actors.errors import UserError
from actors.runs import manifest
from actors.runs.folder import RunFolder
from jobs.reports import plots
from jobs.reports.parts import Report


def build(run: RunFolder) -> Report:
    """Facts, the plot and the demonstrations. Raises UserError if the run has not finished its path."""
    record = manifest.load(run)
    if record is None or record.totals is None or not run.path_json.exists():
        raise UserError(f"{run.path} has no path yet: repeat the run's command to finish it")
    found = json.loads(run.path_json.read_bytes())
    path = found["path"]
    control = _control(found["controls"])
    totals = record.totals
    facts = {
        "demonstrations": len(found["demonstrations"]),
        "calibration_rows": record.config["calibration_rows"],
        "calibration_left_out": totals["calibration_left_out"],
        "stopped": found["stopped"],
        "steps": {"original": path[0]["num_steps"], "refined": path[-1]["num_steps"]},
        "perplexity": {"original": path[0]["perplexity"], "refined": path[-1]["perplexity"]},
        "prompt_tokens": {"original": path[0]["prompt_tokens"], "refined": path[-1]["prompt_tokens"]},
        "edits": [
            {"action": stage["action"], "steps": [origin + 1 for origin in stage["origins"]]} for stage in path[1:]
        ],
        "path": [{name: stage[name] for name in ("num_steps", "perplexity", "prompt_tokens")} for stage in path],
        "control": control,
        "control_paths": len(found["controls"]),
        "scoring": {
            "prompts_scored": totals["prompts_scored"],
            "tokens_forwarded": totals["tokens_forwarded"],
            "tokens_separate_forwards": totals["tokens_separate_forwards"],
            "ratio": totals["tokens_separate_forwards"] / max(1, totals["tokens_forwarded"]),
            "seconds": totals["seconds"],
        },
    }
    shown = [_demonstration(each, path[1:]) for each in found["demonstrations"]]
    return Report(facts, {"path": _plot(facts)}, {"stages": _stages(path, control), "examples": shown})


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    steps, ppl, tokens, scoring = (facts[name] for name in ("steps", "perplexity", "prompt_tokens", "scoring"))
    edits = ", ".join(f"{edit['action']} {'+'.join(map(str, edit['steps']))}" for edit in facts["edits"])
    lines = [
        f"steps       {steps['original']} -> {steps['refined']} ({facts['stopped']}){f': {edits}' if edits else ''}",
        f"perplexity  {ppl['original']:.4f} -> {ppl['refined']:.4f}",
        f"prompt      {tokens['original']:,} -> {tokens['refined']:,} tokens "
        f"({tokens['refined'] / max(1, tokens['original']) - 1:+.1%})",
        f"scoring     {scoring['tokens_forwarded']:,} tokens forwarded, {scoring['ratio']:.2f} times fewer than one "
        "forward per prompt and calibration row",
    ]
    if facts["control_paths"]:
        last = facts["control"][-1]
        lines.insert(
            2,
            f"by chance   {last['mean']:.4f} on average with {last['num_steps']} steps, "
            f"{last['low']:.4f} to {last['high']:.4f} over {last['paths']} random paths",
        )
    return lines


def _control(controls: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """At each number of steps, the mean and the range of the random paths."""
    by_steps: dict[int, list[dict[str, Any]]] = {}
    for path in controls:
        for stage in path:
            by_steps.setdefault(stage["num_steps"], []).append(stage)
    rows = []
    for num_steps, stages in sorted(by_steps.items(), reverse=True):
        ppls = [stage["perplexity"] for stage in stages]
        rows.append(
            {
                "num_steps": num_steps,
                "paths": len(ppls),
                "mean": statistics.fmean(ppls),
                "deviation": statistics.stdev(ppls) if len(ppls) > 1 else 0.0,
                "low": min(ppls),
                "high": max(ppls),
                "prompt_tokens": statistics.fmean(stage["prompt_tokens"] for stage in stages),
            }
        )
    return rows


def _stages(path: list[dict[str, Any]], control: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table: a prompt of the path, and the control with as many steps."""
    by_chance = {row["num_steps"]: row for row in control}
    return [stage | {"control": by_chance.get(stage["num_steps"])} for stage in path]


def _demonstration(given: dict[str, Any], edits: list[dict[str, Any]]) -> dict[str, Any]:
    """Replay the edits on the steps, leaving removed steps in their places."""
    shown: list[dict[str, Any]] = [{"text": text, "fate": "kept"} for text in given["steps"]]
    for order, edit in enumerate(edits, 1):
        alive = [step for step in shown if step["fate"] != "removed"]
        step = alive[edit["index"]]
        if edit["action"] == "merge":
            step["fate"] = "removed"
            step = alive[edit["index"] + 1]  # in whose place the merged step stands
            step["fate"] = "merged"
        else:
            step["fate"] = "removed"
        step["order"] = order
    kept = [step for step in shown if step["fate"] != "removed"]
    for step, text in zip(kept, given["refined_steps"], strict=True):
        step["text"] = text
    return {"question": given["question"], "steps": shown}


def _plot(facts: dict[str, Any]) -> str:
    """Perplexity against the number of steps, which falls from left to right as the prompt gets shorter."""
    drawn, axes = plots.figure()
    if facts["control"]:
        xs, means, lows, highs = (
            [row[name] for row in facts["control"]] for name in ("num_steps", "mean", "low", "high")
        )
        label = f"mean and range of {facts['control_paths']} random paths"
        axes.fill_between(xs, lows, highs, color=plots.GREY, alpha=0.3, linewidth=0)
        axes.plot(xs, means, "o--", color=plots.GREY, markersize=3, linewidth=1.5, label=label)
    xs, ys = ([stage[name] for stage in facts["path"]] for name in ("num_steps", "perplexity"))
    axes.plot(xs, ys, "o-", color=plots.BLUE, markersize=4, linewidth=1.8, label="SPIRIT")
    axes.invert_xaxis()
    axes.legend(frameon=False, fontsize=8)
    if len(xs) > 1:
        axes.set_xticks(xs if len(xs) < 16 else xs[:: len(xs) // 8])
    return plots.svg(drawn, axes, "steps of each demonstration", "perplexity of the calibration solutions")
