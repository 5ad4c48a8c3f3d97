"""The reasons to quarantine a row, and functions that read and check its fields."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

# Reason -> explanation. The `reason` of a quarantined record is one of these keys, optionally with ": " and detail.
REASONS: Final = MappingProxyType(
    {
        "invalid_json": "the line is not JSON",
        "invalid_utf8": "the bytes are not UTF-8",
        "invalid_unicode": "the text contains an unpaired surrogate, which UTF-8 cannot encode",
        "missing_field": "a required column is missing",
        "null_field": "a required column is null",
        "wrong_type": "a value has the wrong type for the format",
        "empty_field": "a required text is empty",
        "no_steps": "the solution has no steps",
        "no_answer": "the solution does not state its answer in the form that the format requires",
        "duplicate_id": "an earlier row has the same id",
        "refused": "the endpoint rejected the prompt",
        "engine_error": "the engine failed on the row",
        "no_samples": "the problem has no samples",
        "not_sampled": "the sampling run quarantined the question",
        "not_graded": "the grading run quarantined the problem",
        "too_long": "the row does not fit the model's context window",
        "nothing_to_score": "the scope contains no token of the row",
        "out_of_memory": "the row does not fit in memory, even alone",
        "not_finite": "the perplexity of the row is not finite",
        "raised": "working on the row raises an exception",
        "unwritable": "the record of the row cannot be written",
        "kills_the_process": "the row crashes its worker process",
    }
)


class RowError(Exception):
    """A row that cannot be processed. The row is quarantined with `reason`, a key of REASONS."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # pickling needs both arguments in `args`
        assert reason in REASONS, reason
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def field(record: Mapping[str, Any], name: str) -> Any:
    """The value of a required column. Raises RowError if it is missing or null."""
    if name not in record:
        raise RowError("missing_field", f"column {name!r}")
    value = record[name]
    if value is None:
        raise RowError("null_field", f"column {name!r}")
    return value


def text(record: Mapping[str, Any], name: str) -> str:
    """The text of a required column, stripped. Raises RowError if it is missing, blank or not text."""
    value = field(record, name)
    if not isinstance(value, str):
        raise not_text(f"column {name!r}", value)
    if not value.strip():
        raise RowError("empty_field", f"column {name!r}")
    return value.strip()


def not_text(where: str, value: Any) -> RowError:
    """The error for a value that is not text."""
    if value is None:
        return RowError("null_field", where)
    if isinstance(value, bytes):  # the reader leaves text that it cannot decode as bytes
        return RowError("invalid_utf8", where)
    return RowError("wrong_type", f"{where} must be text, got {kind(value)}")


def kind(value: Any) -> str:
    """The type of a value in words, for messages."""
    return {"dict": "an object", "list": "a list", "NoneType": "null"}.get(
        type(value).__name__, f"a value of type {type(value).__name__}"
    )


def check_encodable(value: str) -> None:
    """Raise RowError for text that UTF-8 cannot encode."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("invalid_unicode", f"character {error.start} of {value[:20]!r}...") from None
