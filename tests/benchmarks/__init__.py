"""Measurements, each one command that writes its numbers to `results/`.

    python -m tests.benchmarks.refine_cost       forest scoring against the plain loop and padded batches
    python -m tests.benchmarks.demonstrations    AL1 and NBC demonstrations shortened, against ten random paths
    python -m tests.benchmarks.refine_scale      rows per second, driver memory, speed-up with actors (no model)
    python -m tests.benchmarks.large_files       2 GB of JSON lines and of Parquet, through runs killed five times
    python -m tests.benchmarks.faults            time and repeated work when actors, nodes, storage or rows fail
    python -m tests.benchmarks.pass_loop         share of its time that a GPU computes, with a forward that sleeps
    python -m tests.benchmarks.refined_sft       students of refined, original and randomly shortened solutions
    python -m tests.benchmarks.sample_engines    tokens per second of transformers and vLLM
    python -m tests.benchmarks.grade_corpora     grades of the shared corpora beside the string rule's, time, memory
    python -m tests.benchmarks.equal_pairs       pairs of different answers that are judged equal, for a person to read
    python -m tests.benchmarks.step_checks       claims that hold and that do not, in right and in wrong solutions
    python -m tests.benchmarks.votes             rankers, votes and stopping rules, cross-validated on real samples
    python -m tests.benchmarks.rank_encoder      an encoder that reads the text beside the boosted ranker, same problems
    python -m tests.benchmarks.rank_scale        108,144 samples ranked, through a run that is killed once
    python -m tests.benchmarks.serve_load        the graph under 200 clients and a burst, and while replicas are killed
    python -m tests.benchmarks.serve_fuzz        10,000 bad requests: statuses, memory, what stays in flight
    python -m tests.benchmarks.whole_steps       steps that are halves of something, and texts that splitting changes
    python -m tests.benchmarks.known_redundancy  precision and recall of every criterion where the truth is known
    python -m tests.benchmarks.criteria          every criterion on the same GSM8K rows: perplexity, length, cost
    python -m tests.benchmarks.merge_wait        share of its time that a scorer computes beside a slow merger
    python -m tests.benchmarks.train_steps       seconds per step of NAT and NCE beside a plain LoRA
    python -m tests.benchmarks.negative_methods  accuracy of every training method on one generated task
    python -m tests.benchmarks.contrastive_temperature  CL's gradients on right and wrong tokens by temperature

`measured` holds what they share. The corpora are in ../shared/data, or in the folder that SLUICE_SHARED_DATA names.
"""
