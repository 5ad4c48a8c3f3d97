"""What verbs share on the driver.

command        flags, a config file and defaults -> a config; errors -> one line and an exit status
cluster        the Ray to run on
environment    what workers on other nodes need of this process's environment
inputs         files behind --input -> a Corpus: checked, fingerprinted
reading        a Corpus -> the parts that tasks read: cut, counted, without what is done
prompts        the flags that make a prompt of a question
sampling       the flags that say how samples are drawn
submission     a verb's command line -> a job: its id, what to do about earlier jobs, what it takes along
surveying      probes on every node -> facts
findings       facts -> what is wrong, and the mend
fitting        a run's config and facts -> whether it fits, and what it takes
stages         another verb as a stage of this one
stage_plan     stages in YAML -> a checked plan with fingerprints
stage_records  what a pipeline knows of each stage's runs
stage_room     how many stages the cluster has room for
stage_runs     the stages of a pipeline as processes
pipeline_state the stages of a pipeline as they are now, for its report
recorded_samples  graded runs -> the samples of each problem, for votes and replays
comparing      evaluations paired by problem
evaluation     what an evaluation can show of these samples, and its results in the run's folder
corpus_run     a corpus through a pool of workers: start or resume, stream, report
merge_flags    the flags of verbs that merge steps, and the merger that they name
demo_inputs    demonstrations and calibration rows -> aligned chains
demo_paths     what paths of shortened prompts ask for -> their ends
prompt_pool    the actors that score candidate prompts
training_data  rows -> tokenised examples in the run's folder
training_fit   Ray Train over the examples, and its results
ranker_run     what training a ranker of any kind shares: examples, Ray Train, the finished run
ranker_training   the flags and the trainer of a boosted ranker
encoder_training  the flags and the trainer of an encoder ranker
attempts       whether a training run is tried again after a failure
progress       the live line
"""
