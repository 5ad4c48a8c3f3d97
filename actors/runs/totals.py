"""Sums over the records of a run."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from actors.runs.record_kinds import RecordKind


@dataclass
class Totals:
    """Sums over records. `sums` holds the kind's summed columns and the cost of the work, such as seconds."""

    num_rows: int = 0  # input rows
    statuses: Counter[str] = field(default_factory=Counter)  # records by status
    sums: Counter[str] = field(default_factory=Counter)

    @property
    def num_records(self) -> int:
        """Records of any status."""
        return sum(self.statuses.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"num_rows": self.num_rows, "statuses": dict(self.statuses), "sums": dict(self.sums)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Totals":
        """The inverse of `as_dict`."""
        return cls(values["num_rows"], Counter(values["statuses"]), Counter(values["sums"]))

    @classmethod
    def of(cls, kind: RecordKind, num_rows: int, records: Iterable[dict[str, Any]]) -> "Totals":
        """The totals of the records of `num_rows` input rows."""
        totals = cls(num_rows)
        for record in records:
            totals.statuses[record["status"]] += 1
            for name in kind.summed:
                totals.sums[name] += record.get(name) or 0
        return totals

    @classmethod
    def over(cls, parts: Iterable["Totals"]) -> "Totals":
        """The sum of totals."""
        totals = cls()
        for part in parts:
            totals.add(part)
        return totals

    def add(self, other: "Totals") -> None:
        """Add the counts of `other`."""
        self.num_rows += other.num_rows
        self.statuses.update(other.statuses)
        self.sums.update(other.sums)

    def subtract(self, other: "Totals") -> None:
        """Take away the counts of `other`."""
        self.num_rows -= other.num_rows
        self.statuses.subtract(other.statuses)
        self.sums.subtract(other.sums)
