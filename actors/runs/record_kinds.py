"""The terminal records of each job: their columns, their statuses, and the numbers that totals add up.

To add a kind: an entry here, and a worker that hands its records to a `Ledger` of that kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from algorithms.problems import SAMPLE_FACTS


@dataclass(frozen=True)
class RecordKind:
    """The records of one job.

    `summed` names the number columns that totals add up, and `row_column` the column with the id of the input row. All
    records of one row are committed together. A column that a record lacks takes the value of the row's own column of
    that name, or of the one in `taken_from`.
    """

    schema: pa.Schema
    statuses: tuple[str, ...]
    summed: tuple[str, ...]
    row_column: str = "id"
    taken_from: Mapping[str, str] = field(default_factory=dict)


EDIT_TYPE: Final = pa.struct(
    [
        ("action", pa.string()),
        ("index", pa.int32()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("ppl_before", pa.float64()),
        ("ppl_after", pa.float64()),
        ("ratio", pa.float64()),
    ]
)
MERGE_TYPE: Final = pa.struct([("index", pa.int32()), ("outcome", pa.string()), ("text", pa.string())])
REFINEMENT: Final = RecordKind(
    pa.schema(
        [
            ("id", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("question", pa.string()),
            ("answer", pa.string()),
            ("steps", pa.list_(pa.string())),
            ("refined_steps", pa.list_(pa.string())),
            ("joiner", pa.string()),
            ("separators", pa.list_(pa.string())),
            ("refined_separators", pa.list_(pa.string())),
            ("edits", pa.list_(EDIT_TYPE)),
            ("merges", pa.list_(MERGE_TYPE)),  # that were tried
            ("stopped", pa.string()),  # why no further step went
            ("control_steps", pa.list_(pa.string())),  # as many steps removed at random; null outside the control
            ("control_ppl", pa.float64()),
            ("control_tokens", pa.int64()),
            ("ppl_original", pa.float64()),
            ("ppl_refined", pa.float64()),
            ("tokens_original", pa.int64()),
            ("tokens_refined", pa.int64()),
            ("tokens_scored", pa.int64()),
            ("tokens_naive", pa.int64()),
            ("source", pa.string()),
        ]
    ),
    statuses=("refined", "unchanged", "quarantined"),
    summed=("tokens_original", "tokens_refined", "tokens_scored", "tokens_naive"),
)

# What is known of a sample besides its text, wherever samples are kept.
ARROW_TYPES: Final = {int: pa.int64(), str: pa.string(), float: pa.float64()}
SAMPLE_FIELDS: Final = tuple((name, ARROW_TYPES[kind]) for name, kind in SAMPLE_FACTS.items())
SAMPLE_TYPE: Final = pa.struct([("text", pa.string()), *SAMPLE_FIELDS])
SAMPLING: Final = RecordKind(
    pa.schema(
        [
            ("id", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("question", pa.string()),
            ("answer", pa.string()),
            ("samples", pa.list_(SAMPLE_TYPE)),
            ("num_samples", pa.int64()),
            ("num_tokens", pa.int64()),
            ("num_cut", pa.int64()),  # samples that reached their maximum length
            ("source", pa.string()),
        ]
    ),
    statuses=("sampled", "quarantined"),
    summed=("num_samples", "num_tokens", "num_cut"),
)

GRADING: Final = RecordKind(
    pa.schema(
        [
            ("id", pa.string()),
            ("problem_id", pa.string()),
            ("sample_index", pa.int32()),  # null in the single record of a quarantined problem
            ("split", pa.string()),
            ("status", pa.string()),
            ("correct", pa.bool_()),  # null if it cannot be decided
            ("reason", pa.string()),
            ("question", pa.string()),
            ("gold", pa.string()),
            ("rationale", pa.string()),
            ("answer", pa.string()),
            ("found_by", pa.string()),
            ("string_correct", pa.bool_()),  # the result of comparing normalised strings of the last box
            ("given_correct", pa.bool_()),  # the corpus's own label, if it has one
            ("origin", pa.string()),  # the author of the sample, if a corpus has several
            ("answer_class", pa.int32()),  # equal answers to a question share it; null for one that cannot vote
            ("claims_true", pa.int32()),  # what the text claims (algorithms.step_checks): what holds,
            ("claims_false", pa.int32()),  # what does not,
            ("claims_unchecked", pa.int32()),  # and what cannot be checked
            *SAMPLE_FIELDS,
            ("source", pa.string()),
        ]
    ),
    statuses=("right", "wrong", "unknown", "quarantined"),
    summed=(),
    row_column="problem_id",
    taken_from={"gold": "answer", "answer": ""},  # a row's answer is the gold answer
)

RANKING: Final = RecordKind(
    GRADING.schema.append(pa.field("score", pa.float64())),  # null for a sample without text
    statuses=GRADING.statuses,
    summed=(),
    taken_from={"status": "grade", "reason": "grade_reason"},
)
