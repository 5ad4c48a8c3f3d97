"""What the terminal records of each job look like: columns, statuses, and which numbers add up."""

from typing import Final

import pyarrow as pa

from actors.records import RecordKind

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
            ("edits", pa.list_(EDIT_TYPE)),
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

SAMPLE_TYPE: Final = pa.struct(
    [
        ("text", pa.string()),
        ("num_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("mean_logprob", pa.float64()),
    ]
)
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
            ("num_cut", pa.int64()),  # samples that ended for their length
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
            ("sample_index", pa.int32()),  # null in the one record of a problem that is quarantined
            ("split", pa.string()),
            ("status", pa.string()),
            ("correct", pa.bool_()),  # null where it cannot be told
            ("reason", pa.string()),
            ("question", pa.string()),
            ("gold", pa.string()),
            ("rationale", pa.string()),
            ("answer", pa.string()),
            ("found_by", pa.string()),
            ("string_correct", pa.bool_()),  # what comparing normalised strings of the last box says
            ("given_correct", pa.bool_()),  # what the corpus itself says, if it does
            ("origin", pa.string()),  # who wrote the sample, where a corpus has several
            ("num_tokens", pa.int64()),
            ("finish_reason", pa.string()),
            ("mean_logprob", pa.float64()),
            ("source", pa.string()),
        ]
    ),
    statuses=("right", "wrong", "unknown", "quarantined"),
    summed=(),
    row_column="problem_id",
    taken_from={"gold": "answer", "answer": ""},  # a row's answer is the gold one
)
