"""The report of a grading run: right, wrong and unknown, by level, type and way, and where the string rule differs."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from actors.records import RecordStore
from actors.storage import Storage
from algorithms.grading import UNKNOWN
from jobs.driver import plots
from jobs.driver.report_parts import Report

GRADES: Final = ("right", "wrong", "unknown")
LISTED: Final = 300  # distinct disagreements of a kind that the page lists
COLUMNS: Final = (
    "id", "status", "reason", "split", "gold", "answer", "found_by", "string_correct", "given_correct", "origin",
    "source",
)  # fmt: skip
Table = dict[str, Counter[str]]


@dataclass
class _Survey:
    """What one pass over all records gathers."""

    by: dict[str, Table] = field(default_factory=dict)  # level, type... -> value -> grades
    reasons: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    strings: Counter[tuple[bool, str]] = field(default_factory=Counter)  # (string rule says right, grade)
    given: Counter[tuple[bool, str]] = field(default_factory=Counter)
    differing: dict[str, dict[tuple[str, str], list[Any]]] = field(default_factory=lambda: {"more": {}, "fewer": {}})
    unlike_given: list[dict[str, Any]] = field(default_factory=list)
    num_problems: int = 0

    def count(self, table: str, value: Any, status: str) -> None:
        """Count one grade under one value of a table."""
        self.by.setdefault(table, {}).setdefault(str(value), Counter())[status] += 1


def build(run: Storage) -> Report:
    """Facts, plots and the list of disagreements."""
    store = RecordStore(run / "rows")
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
    return Report(
        "grading_report.html.j2", facts, {"levels": _plot(survey, "level"), "types": _plot(survey, "type")}, shown
    )


def summary(facts: dict[str, Any]) -> list[str]:
    """The facts for a terminal."""
    samples, strings = facts["samples"], facts["string_rule"]
    lines = [
        f"samples     {samples['total']:,} of {facts['problems']:,} problems: {samples['right']:,} right, "
        f"{samples['wrong']:,} wrong, {samples['unknown']:,} unknown; {facts['quarantined']:,} problems quarantined",
        *(f"              {count:,} {reason}" for reason, count in facts["unknown_by_reason"].items()),
        *(f"              {count:,} quarantined: {reason}" for reason, count in facts["quarantined_by_reason"].items()),
        "splits      " + ", ".join(f"{name} {sum(counts.values()):,}" for name, counts in facts["by_split"].items()),
    ]
    if strings["right"]:  # it knows boxes only
        lines.append(
            f"string rule {strings['right']:,} right; we find {strings['only_ours']:,} more and "
            f"{strings['only_strings']:,} of them not right"
        )
    if facts["given"]:
        given = facts["given"]
        lines.append(
            f"its flags   {given['agreement']:.2%} of {given['flags']:,} agree with the grade: "
            f"{given['contrary']:,} are contrary to it, {given['unknown']:,} are of unknown samples"
        )
    return lines


def _survey(store: RecordStore) -> _Survey:
    survey = _Survey()
    for batch in store.batches(COLUMNS):
        for row in batch.to_pylist():
            if row["status"] == "quarantined":
                survey.quarantined[row["reason"].split(":", 1)[0]] += 1
            else:
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
        survey.reasons[row["reason"].split(":", 1)[0]] += 1
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
        **{f"by_{name}": _plain(survey.by.get(name, {})) for name in ("level", "type", "found_by", "origin", "split")},
        "string_rule": {
            "right": right_by_string,
            "both": survey.strings[True, "right"],
            "only_ours": samples["right"] - survey.strings[True, "right"],
            "only_strings": right_by_string - survey.strings[True, "right"],
        },
        "given": _against_flags(survey.given),
    }


def _against_flags(given: Counter[tuple[bool, str]]) -> dict[str, Any] | None:
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


def _plain(table: Table) -> dict[str, dict[str, int]]:
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
