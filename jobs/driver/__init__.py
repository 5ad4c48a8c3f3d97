"""What the verbs share in the driver process.

command   flags and YAML -> a config; a user's mistake -> one line and exit status 2
cluster   join the cluster of RAY_ADDRESS or start a local Ray
inputs    --input, --format, columns -> a Corpus
manifest  what a run is, and whether a resume is the same run
progress  the live line
report    report.html and report.json from the committed records
"""
