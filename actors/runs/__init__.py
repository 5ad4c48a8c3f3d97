"""A run: its folder, its input, its output, and what makes it resumable.

    folder        where each file of a run lies
    storage       one interface to local paths and every URI that pyarrow or fsspec reads
    retries       errors of storage that pass: calls are repeated, reads go on where they were
    corpus        the input: files, or parts of them -> rows with stable ids
    worker        what Ray Data calls: it holds a worker of `actors`, lets its errors travel, ends its process
    nodes         which nodes there are, and what they see
    manifest      what a run is, so that only the same run resumes
    session       which execution of a command may write
    records       the output: terminal records, committed as whole Parquet files
    totals        sums over records
    commits       what was committed when, in a log that spares lists and footers
    merging       at the end, few large files, shard by shard of the input, each row once
    record_kinds  the columns of each job's records, and which numbers add up
    ledger        one record for each row, committed at 1,000 rows or after 45 seconds at most, whatever dies or raises
    journal       which rows were in flight when processes died, and which of them is the cause
    replies       what scorers and mergers replied, by request
    metrics       what training logs

A new kind of record, or a new column: `record_kinds`.
"""
