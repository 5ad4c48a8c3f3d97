"""The report of a pipeline: the graph of its stages, and what each took, made and cost."""

import itertools
import json
from collections.abc import Sequence
from typing import Any, Final

from actors.runs import manifest
from actors.runs.folder import RunFolder, open_run_folder
from actors.runs.storage import open_storage
from jobs.reports import page
from jobs.reports.parts import Report, clock

BOX_WIDTH: Final = 196
BOX_HEIGHT: Final = 46
GAP_X: Final = 64
GAP_Y: Final = 40


def build(run: RunFolder) -> Report:
    """Facts of all stages from `pipeline.json` and from the stages' own reports."""
    state = json.loads(run.pipeline.read_bytes())
    price = state["price_per_gpu_hour"]
    stages = [_stage(each, run, price) for each in state["stages"]]
    costs = [each["dollars"] for each in stages if each["dollars"] is not None]
    facts = {
        "stages": stages,
        "lineage": lineage(stages),
        "statuses": {
            status: count
            for status in ("finished", "running", "failed", "stopped", "not started")
            if (count := sum(each["status"] == status for each in stages))
        },
        "seconds": sum(each["seconds"] for each in stages),
        "tokens": sum(each["tokens"] or 0 for each in stages),
        "dollars": sum(costs) if costs else None,
        "price_per_gpu_hour": price,
    }
    return Report(facts, {}, {"graph": graph(stages), "inputs": {each["name"]: _inputs(each) for each in stages}})


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    width = max(len(each["name"]) for each in facts["stages"])
    lines = []
    for each in facts["stages"]:
        parts = [f"{each['status']:<11}", f"{clock(each['seconds']):>7}"]
        if each["number"] is not None:
            parts.append(f"{each['number']:>9,} {each['counted']}")
        if each["tokens"]:
            parts.append(f"{each['tokens']:,} tokens {each['tokens_counted']}")
        lines.append(f"{each['name']:<{width}}  {'  '.join(parts)}")
    cost = "" if facts["dollars"] is None else f", ${facts['dollars']:,.2f}"
    counts = ", ".join(f"{count} {status}" for status, count in facts["statuses"].items())
    return [*lines, f"stages      {counts}; {clock(facts['seconds'])} of work, {facts['tokens']:,} tokens{cost}"]


def _inputs(stage: dict[str, Any]) -> dict[str, list[str]]:
    """What each flag of the stage reads: stages, and files from elsewhere."""
    found: dict[str, list[str]] = {}
    for name, flags in stage["reads"].items():
        for flag in flags:
            found.setdefault(flag, []).append(name)
    for flag, texts in stage["from_elsewhere"].items():
        found.setdefault(flag, []).extend(texts)
    return found


def lineage(stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each adapter, ranker and evaluation, and each other stage that no stage reads: all it was made from."""
    by_name = {each["name"]: each for each in stages}
    read = {name for each in stages for name in each["reads"]}
    found = []
    for each in stages:
        product = {"train": "adapter", "evaluate": "evaluation"}.get(each["verb"])
        if str(each["method"]).startswith("ranker"):
            product = "ranker"
        if product is None and each["name"] in read:
            continue
        todo, above = list(each["reads"]), set()
        while todo:
            if (name := todo.pop()) not in above:
                above.add(name)
                todo += by_name[name]["reads"]
        found.append(
            {
                "stage": each["name"],
                "product": product or "data",
                "output": each["output"],
                "fingerprint": each["fingerprint"],
                "made_from": [name for name in by_name if name in above],
            }
        )
    return found


def graph(stages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Boxes and arrows: each stage in the row below the last one that it needs, near the column of those it needs."""
    places: dict[str, tuple[int, int]] = {}  # stage -> row and column
    for each in stages:  # in the order of the work
        above = [places[name] for name in {**each["reads"], **dict.fromkeys(each["after"])}]
        row = 1 + max((row for row, _ in above), default=-1)
        wanted = round(sum(column for _, column in above) / len(above)) if above else 0
        column = next(column for column in itertools.count(wanted) if (row, column) not in places.values())
        places[each["name"]] = row, column
    return {
        "boxes": [
            {"x": _left(places[each["name"]]), "y": _top(places[each["name"]]), "stage": each} for each in stages
        ],
        "arrows": [
            {"path": _arrow(places[name], places[each["name"]]), "reads": name in each["reads"]}
            for each in stages
            for name in {**each["reads"], **dict.fromkeys(each["after"])}
        ],
        "box": (BOX_WIDTH, BOX_HEIGHT),
        "width": (max(column for _, column in places.values()) + 1) * (BOX_WIDTH + GAP_X) + 1,
        "height": (max(row for row, _ in places.values()) + 1) * (BOX_HEIGHT + GAP_Y) - GAP_Y + 2,
    }


def _left(place: tuple[int, int]) -> int:
    return place[1] * (BOX_WIDTH + GAP_X) + 1


def _top(place: tuple[int, int]) -> int:
    return place[0] * (BOX_HEIGHT + GAP_Y) + 1


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """An SVG path: down to the next row, or through the gap beside a column to a row further down."""
    if end[0] - start[0] == 1:
        x, to_x = (_left(place) + BOX_WIDTH // 2 for place in (start, end))
        y, to_y, bend = _top(start) + BOX_HEIGHT, _top(end), GAP_Y // 2
        return f"M{x},{y} C{x},{y + bend} {to_x},{to_y - bend} {to_x},{to_y}"
    y, to_y = (_top(place) + BOX_HEIGHT // 2 for place in (start, end))
    x = _left(start) + (BOX_WIDTH if start[1] <= end[1] else 0)
    to_x = _left(end) + (BOX_WIDTH if start[1] >= end[1] else 0)
    out = x + (GAP_X if start[1] <= end[1] else -GAP_X)
    into = to_x + (GAP_X if start[1] >= end[1] else -GAP_X)
    return f"M{x},{y} C{out},{y + GAP_Y} {into},{to_y - GAP_Y} {to_x},{to_y}"


def _stage(each: dict[str, Any], run: RunFolder, price: float | None) -> dict[str, Any]:
    """A stage with what its own run tells."""
    root, own = run.path.rstrip("/") + "/", open_storage(each["output"]).path
    link = own.removeprefix(root) if own.startswith(root) else each["output"].rstrip("/")
    found = {**each, "number": None, "counted": "", "tokens": None, "tokens_counted": "", "summary": [], "report": None}
    hours = each["gpus"] * each["seconds"] / 3600
    found["dollars"] = hours * price if price is not None and hours else None
    folder = open_run_folder(each["output"])
    if not folder.report_json.exists():  # files, or a run that has not got that far
        found["summary"] = [each["message"]] if each["status"] == "finished" else []
        return found
    record = manifest.load(folder)
    assert record is not None, "a report is written only for a run"
    facts = json.loads(folder.report_json.read_bytes())
    found |= _measures(record, facts, folder)
    found["summary"] = page.summary(facts, each["output"], record).splitlines()[:-1]
    found["report"] = f"{link}/report.html"
    return found


def _measures(record: manifest.Manifest, facts: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """How many rows, samples or examples a run had, and how many tokens its model read or wrote."""
    if record.job == "refine":
        return _counted(facts["rows"]["total"], "rows", facts["scoring"]["tokens_forwarded"], "scored")
    if record.job == "sample":
        return _counted(facts["rows"]["total"], "questions", facts["tokens"]["total"], "sampled")
    if record.job == "train":
        tokens = round(facts["passes"] * facts["examples"]["tokens"])
        return _counted(facts["examples"]["train"], "examples", tokens, "trained on")
    if record.job == "ranker":
        return _counted(
            sum((record.totals or {}).get(name, 0) for name in ("train", "validation", "held_out")), "samples"
        )
    if record.job in ("evaluate", "compare"):
        drawn = RunFolder(folder.root / "samples").report_json
        tokens = json.loads(drawn.read_bytes())["tokens"]["total"] if drawn.exists() else None
        return _counted(facts["problems"], "problems", tokens, "sampled")
    if "samples" in facts and isinstance(facts["samples"], dict):
        return _counted(facts["samples"]["total"], "samples")
    return {}


def _counted(count: int, counted: str, tokens: int | None = None, tokens_counted: str = "") -> dict[str, Any]:
    return {"number": count, "counted": counted, "tokens": tokens, "tokens_counted": tokens_counted if tokens else ""}
