"""Why a row cannot be worked on, and the readers of fields that find out."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

# Why a row can be quarantined. `reason` in a record is one of these, then ": " and detail.
REASONS: Final = MappingProxyType(
    {
        "invalid_json": "the line is not JSON",
        "invalid_utf8": "the bytes are not UTF-8",
        "invalid_unicode": "the text holds half a surrogate pair and cannot be encoded",
        "missing_field": "a column that the format needs is not there",
        "null_field": "a column that the format needs is null",
        "wrong_type": "a value is not of the type that the format needs",
        "empty_field": "a text that the format needs is empty",
        "no_steps": "the solution holds no step",
        "no_answer": "the solution does not state its answer the way the format says",
        "duplicate_id": "an earlier row has the same id",
        "refused": "the endpoint refuses the prompt",
        "engine_error": "the engine fails at the row",
        "no_samples": "the problem has no sample",
        "not_sampled": "sampling itself quarantined the question",
        "too_long": "the row does not fit the model's context window",
        "nothing_to_score": "no token of the row lies in the scope",
        "out_of_memory": "the row does not fit into memory, even alone",
        "not_finite": "the model gives the row no finite perplexity",
        "kills_the_process": "the process that works on the row dies of it",
    }
)


class RowError(Exception):
    """A row that cannot be worked on. `reason` is a key of REASONS; the row is quarantined with it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # both in args: the error survives pickling
        assert reason in REASONS, reason
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def field(record: Mapping[str, Any], name: str) -> Any:
    """A value that must be there."""
    if name not in record:
        raise RowError("missing_field", f"column {name!r}")
    value = record[name]
    if value is None:
        raise RowError("null_field", f"column {name!r}")
    return value


def text(record: Mapping[str, Any], name: str) -> str:
    """A text that must be there and hold more than whitespace, without the whitespace around it."""
    value = field(record, name)
    if not isinstance(value, str):
        raise not_text(f"column {name!r}", value)
    if not value.strip():
        raise RowError("empty_field", f"column {name!r}")
    return value.strip()


def not_text(where: str, value: Any) -> RowError:
    """Why a value is no text."""
    if value is None:
        return RowError("null_field", where)
    if isinstance(value, bytes):  # the reader leaves bytes where it could not decode
        return RowError("invalid_utf8", where)
    return RowError("wrong_type", f"{where} must be text, got {kind(value)}")


def kind(value: Any) -> str:
    """What a value is, in words."""
    return {"dict": "an object", "list": "a list", "NoneType": "null"}.get(
        type(value).__name__, f"a value of type {type(value).__name__}"
    )


def check_encodable(value: str) -> None:
    """Raise RowError for text that UTF-8 cannot hold."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("invalid_unicode", f"character {error.start} of {value[:20]!r}...") from None
