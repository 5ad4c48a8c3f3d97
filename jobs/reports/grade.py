"""The report of a grading run: grades by level, type and source of the answer, and where the string rule differs."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow.compute as pc

from actors.runs.folder import RunFolder
from actors.runs.records import RecordStore
from algorithms.grading import UNKNOWN
from jobs.reports import plots
from jobs.reports.parts import Report, count_reasons, reason_name

GRADES: Final = ("right", "wrong", "unknown")
LISTED: Final = 300  # distinct disagreements of each kind on the page
COLUMNS: Final = (
    "id", "status", "reason", "split", "gold", "answer", "found_by", "string_correct", "given_correct", "origin",
    "source",
)  # fmt: skip
Table = dict[str, Counter[str]]


@dataclass
class _Survey:
    """Counts from one pass over all records."""

    by: dict[str, Table] = field(default_factory=dict)  # level, type... -> value -> grades
    reasons: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    strings: Counter[tuple[bool, str]] = field(default_factory=Counter)  # (right by the string rule, grade)
    given: Counter[tuple[bool, str]] = field(default_factory=Counter)
    differing: dict[str, dict[tuple[str, str], list[Any]]] = field(default_factory=lambda: {"more": {}, "fewer": {}})
    unlike_given: list[dict[str, Any]] = field(default_factory=list)
    num_problems: int = 0

    def count(self, table: str, value: Any, status: str) -> None:
        """Count one grade under one value of a table."""
        self.by.setdefault(table, {}).setdefault(str(value), Counter())[status] += 1


def build(run: RunFolder) -> Report:
    """Facts, plots and the disagreements."""
    store = RecordStore(run)
    survey = _survey(store)
    totals = store.totals()
    survey.num_problems = totals.num_rows
    facts = _facts(survey, totals.statuses)
    listed = {
        kind: [{"gold": gold, "answer": answer, "count": count, "id": row_id, "found_by": way}
               for (gold, answer), (count, row_id, way) in pairs.items()]
        for kind, pairs in survey.differing.items()
    }  # fmt: skip
    shown = {"listed": listed, "unlike_given": survey.unlike_given, "unknown_reasons": UNKNOWN}
    return Report(facts, {"levels": _plot(survey, "level"), "types": _plot(survey, "type")}, shown)


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a terminal."""
    samples, strings = facts["samples"], facts["string_rule"]
    lines = [
        f"samples     {samples['total']:,} of {facts['problems']:,} problems: {samples['right']:,} right, "
        f"{samples['wrong']:,} wrong, {samples['unknown']:,} unknown; {facts['quarantined']:,} problems quarantined",
        *(f"              {count:,} {reason}" for reason, count in facts["unknown_by_reason"].items()),
        *(f"              {count:,} quarantined: {reason}" for reason, count in facts["quarantined_by_reason"].items()),
        "splits      " + ", ".join(f"{name} {sum(counts.values()):,}" for name, counts in facts["by_split"].items()),
    ]
    if strings["right"]:  # it reads only boxes
        lines.append(
            f"string rule {strings['right']:,} right; Sluice finds {strings['only_ours']:,} more and "
            f"rejects {strings['only_strings']:,} of these"
        )
    if facts["given"]:
        given = facts["given"]
        lines.append(
            f"labels      {given['agreement']:.2%} of the corpus's {given['flags']:,} labels agree with the grade: "
            f"{given['contrary']:,} contradict it, {given['unknown']:,} belong to unknown samples"
        )
    return lines


def _survey(store: RecordStore) -> _Survey:
    survey = _Survey()
    for batch in store.batches(COLUMNS):
        count_reasons(survey.quarantined, batch, "quarantined")
        for row in batch.filter(pc.not_equal(batch["status"], "quarantined")).to_pylist():
            _count(survey, row)
    return survey


def _count(survey: _Survey, row: dict[str, Any]) -> None:
    status = row["status"]
    source = json.loads(row["source"] or "{}")
    for name in ("level", "type"):
        if isinstance(source.get(name), str | int):
            survey.count(name, source[name], status)
    survey.count("split", row["split"], status)
    survey.count("found_by", row["found_by"] or "nothing found", status)
    if row["origin"] is not None:
        survey.count("origin", row["origin"], status)
    if row["reason"] is not None:
        survey.reasons[reason_name(row["reason"])] += 1
    if row["string_correct"] is not None:
        survey.strings[row["string_correct"], status] += 1
    if (status == "right") != bool(row["string_correct"]):
        pairs = survey.differing["more" if status == "right" else "fewer"]
        pair = (row["gold"], row["answer"] or "")
        if pair in pairs or len(pairs) < LISTED:
            pairs.setdefault(pair, [0, row["id"], row["found_by"]])[0] += 1
    if row["given_correct"] is not None:
        survey.given[row["given_correct"], status] += 1
        if status != _as_status(row["given_correct"]) and len(survey.unlike_given) < LISTED:
            survey.unlike_given.append(row)


def _facts(survey: _Survey, statuses: Counter[str]) -> dict[str, Any]:
    samples = {status: statuses[status] for status in GRADES}
    right_by_string = sum(count for (says, _), count in survey.strings.items() if says)
    return {
        "problems": survey.num_problems,
        "samples": {"total": sum(samples.values()), **samples},
        "quarantined": statuses["quarantined"],
        "quarantined_by_reason": dict(survey.quarantined.most_common()),
        "unknown_by_reason": dict(survey.reasons.most_common()),
        **{f"by_{name}": _grades(survey.by.get(name, {})) for name in ("level", "type", "found_by", "origin", "split")},
        "string_rule": {
            "right": right_by_string,
            "both": survey.strings[True, "right"],
            "only_ours": samples["right"] - survey.strings[True, "right"],
            "only_strings": right_by_string - survey.strings[True, "right"],
        },
        "given": _agreement(survey.given),
    }


def _agreement(given: Counter[tuple[bool, str]]) -> dict[str, Any] | None:
    flags = given.total()
    if not flags:
        return None
    agreeing = sum(given[flag, _as_status(flag)] for flag in (True, False))
    unknown = sum(given[flag, "unknown"] for flag in (True, False))
    return {
        "flags": flags,
        "agreeing": agreeing,
        "contrary": flags - agreeing - unknown,
        "unknown": unknown,
        "agreement": agreeing / flags,
    }


def _as_status(flag: bool) -> str:
    return "right" if flag else "wrong"


def _grades(table: Table) -> dict[str, dict[str, int]]:
    return {value: {status: table[value][status] for status in GRADES} for value in sorted(table)}


def _plot(survey: _Survey, name: str) -> str:
    """Stacked bars of the grades of each value."""
    table = survey.by.get(name, {})
    if not table:
        return ""
    drawn, axes = plots.figure()
    values = sorted(table)
    left = [0] * len(values)
    for status, color in zip(GRADES, (plots.BLUE, plots.ORANGE, plots.GREY), strict=True):
        counts = [table[value][status] for value in values]
        axes.barh(values, counts, left=left, color=color, label=status, height=0.7)
        left = [before + count for before, count in zip(left, counts, strict=True)]
    axes.invert_yaxis()
    axes.grid(axis="x", color="#e6eaed", linewidth=0.8)
    axes.grid(axis="y", visible=False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    return plots.svg(drawn, axes, "samples", "")
