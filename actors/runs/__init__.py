"""A run: its folder, its input, its output, and what makes it resumable.

    folder        where each file of a run lies
    storage       one interface to local paths and every URI that pyarrow or fsspec reads
    corpus        the input: files -> rows with stable ids, as a Ray Data source
    worker        what Ray Data calls: it holds a worker of `actors` and lets its errors travel
    manifest      what a run is, so that only the same run resumes
    session       which execution of a command may write
    records       the output: terminal records, committed as whole Parquet files
    record_kinds  the columns of each job's records, and which numbers add up
    ledger        one record for each row, committed at 1,000 rows or after 45 seconds at most, whatever dies
    journal       which rows were in flight when a process died
    metrics       what training logs

A new kind of record, or a new column: `record_kinds`.
"""
