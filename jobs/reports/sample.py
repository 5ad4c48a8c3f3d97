"""The report of a sampling run: number and length of samples, how they ended, and some of them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from actors.runs.folder import RunFolder
from actors.runs.records import RecordStore
from actors.runs.totals import Totals
from jobs.reports import plots
from jobs.reports.parts import BUCKETS_PER_DECADE, Report, Reservoir, count_lengths, count_reasons, records_at

NUM_SHOWN: Final = 6


@dataclass
class _Survey:
    """Counts from one pass over all records."""

    quarantined: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)  # tokens, in logarithmic buckets
    logprob_sum: float = 0.0
    num_logprobs: int = 0
    examples: Reservoir = field(default_factory=lambda: Reservoir(NUM_SHOWN))


def build(run: RunFolder) -> Report:
    """Facts, the plot of lengths, and some samples."""
    store = RecordStore(run)
    survey = _survey(store)
    drawn = {"lengths": _plot_lengths(survey)}
    shown = {"examples": list(records_at(store, survey.examples.rows))}
    return Report(_facts(survey, store.totals()), drawn, shown)


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    rows, tokens = facts["rows"], facts["tokens"]
    return [
        f"questions   {rows['total']:,}: {rows['sampled']:,} sampled, {rows['quarantined']:,} quarantined",
        *(f"              {count:,} {reason}" for reason, count in facts["quarantined_by_reason"].items()),
        f"samples     {facts['samples']:,}, {tokens['mean']:.1f} tokens each, "
        f"{facts['cut_fraction']:.1%} cut at the maximum length",
        f"engine      {tokens['total']:,} tokens in {facts['forward_seconds']:,.1f} s of all actors"
        if facts["forward_seconds"]
        else f"engine      {tokens['total']:,} tokens",
    ]


def _survey(store: RecordStore) -> _Survey:
    survey = _Survey()
    number = 0
    for batch in store.batches(("status", "reason", "samples")):
        count_reasons(survey.quarantined, batch, "quarantined")
        for offset, status in enumerate(batch["status"].to_pylist()):
            if status == "sampled":
                survey.examples.offer(number + offset)
        number += batch.num_rows
        samples = batch["samples"].flatten()
        survey.endings.update(samples.field("finish_reason").to_pylist())
        count_lengths(survey.lengths, np.maximum(samples.field("num_tokens").to_numpy(zero_copy_only=False), 1))
        logprobs = samples.field("mean_logprob").drop_null()
        survey.logprob_sum += pc.sum(logprobs).as_py() or 0.0
        survey.num_logprobs += len(logprobs)
    return survey


def _facts(survey: _Survey, totals: Totals) -> dict[str, Any]:
    samples, tokens = totals.sums["num_samples"], totals.sums["num_tokens"]
    return {
        "rows": {"total": totals.num_rows, **{name: totals.statuses[name] for name in ("sampled", "quarantined")}},
        "quarantined_by_reason": dict(survey.quarantined.most_common()),
        "samples": samples,
        "samples_by_finish_reason": dict(survey.endings.most_common()),
        "cut_fraction": totals.sums["num_cut"] / samples if samples else 0.0,
        "tokens": {"total": tokens, "mean": tokens / samples if samples else 0.0},
        "mean_logprob": survey.logprob_sum / survey.num_logprobs if survey.num_logprobs else None,
        "forward_seconds": totals.sums["forward_seconds"],
    }


def _plot_lengths(survey: _Survey) -> str:
    drawn, axes = plots.figure()
    plots.log_stairs(axes, survey.lengths, BUCKETS_PER_DECADE, plots.BLUE, "")
    plots.log_ticks(axes)
    plots.whole_ticks(axes)
    return plots.svg(drawn, axes, "tokens of a sample", "samples")
