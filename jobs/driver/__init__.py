"""What the verbs share in the driver process.

command   flags and YAML -> a config; a user's mistake -> one line and exit status 2
cluster   join the cluster of RAY_ADDRESS or start a local Ray
inputs    --input, --format, columns -> a Corpus
manifest  what a run is, and whether a resume is the same run
progress  the live line
pipeline  a corpus through a pool of actors: open the run, stream, report, verdict
vllm_stream  a corpus through ray.data.llm's vLLM engines
templates a prompt text, or the file that holds one
training_data      rows -> tokenised examples in the run's folder
training_run       Ray Train over them, and what it leaves
report    report.html and report.json of any run, from its committed records
report_parts       what the reports of all jobs are made of
refinement_report  what was removed, what it cost
sampling_report    how many samples, how long, how they ended
grading_report     right and wrong, and where the string rule differs
adapters           the adapters that flags name
model_card         README.md of an adapter
training_report    loss curves, and what was not trained on
plots     small SVG plots in one style
"""
