"""The report of a ranking run: the scores of right, wrong and unknown samples."""

from collections import Counter
from typing import Any, Final

import numpy as np

from actors.runs.folder import RunFolder
from actors.runs.records import RecordStore
from jobs.reports import plots
from jobs.reports.parts import Report, count_reasons

NUM_BINS: Final = 20
GRADES: Final = ("right", "wrong", "unknown")
COLORS: Final = {"right": plots.BLUE, "wrong": plots.ORANGE, "unknown": plots.GREY}


def build(run: RunFolder) -> Report:
    """Facts and the plot of scores, in one pass over the records."""
    store = RecordStore(run)
    counts = {grade: np.zeros(NUM_BINS, dtype=np.int64) for grade in GRADES}
    sums = dict.fromkeys(GRADES, 0.0)
    quarantined: Counter[str] = Counter()
    without = 0
    for batch in store.batches(("status", "reason", "score")):
        count_reasons(quarantined, batch, "quarantined")
        scores = batch["score"].to_numpy(zero_copy_only=False)
        statuses = np.array(batch["status"].to_pylist())
        without += int((np.isnan(scores) & (statuses != "quarantined")).sum())
        for grade in GRADES:
            mine = scores[(statuses == grade) & ~np.isnan(scores)]
            counts[grade] += np.histogram(mine, NUM_BINS, (0, 1))[0]
            sums[grade] += float(mine.sum())
    numbers = {grade: int(counts[grade].sum()) for grade in GRADES}
    facts = {
        "samples": {"total": sum(numbers.values()), **numbers},
        "mean_score": {grade: sums[grade] / numbers[grade] if numbers[grade] else None for grade in GRADES},
        "without_text": without,
        "quarantined": sum(quarantined.values()),
        "quarantined_by_reason": dict(quarantined.most_common()),
        "scores": {grade: counts[grade].tolist() for grade in GRADES},
    }
    return Report(facts, {"scores": _plot(counts)})


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    means = ", ".join(f"{grade} {mean:.3f}" for grade, mean in facts["mean_score"].items() if mean is not None)
    return [
        f"samples     {facts['samples']['total']:,} ranked, {facts['without_text']:,} without text, "
        f"{facts['quarantined']:,} quarantined",
        *(f"              {count:,} {reason}" for reason, count in facts["quarantined_by_reason"].items()),
        f"mean score  {means}",
    ]


def _plot(counts: dict[str, Any]) -> str:
    drawn, axes = plots.figure()
    edges = np.linspace(0, 1, NUM_BINS + 1)
    for grade, color in COLORS.items():
        if counts[grade].sum():
            axes.stairs(counts[grade], edges, color=color, label=grade, linewidth=1.6)
    axes.legend(frameon=False, fontsize=8)
    plots.whole_ticks(axes)
    return plots.svg(drawn, axes, "score", "samples")
