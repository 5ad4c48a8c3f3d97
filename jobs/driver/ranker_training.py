"""`jobs.train --method ranker`: graded samples -> a ranker in OUTPUT/ranker."""

import dataclasses
import pickle
import time
from collections import Counter
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from actors.errors import UserError
from actors.ranking.fitting import EXAMPLE_SCHEMA, BoostingPlan, fit_worker, read_features
from actors.runs import manifest
from actors.runs.corpus import Corpus
from actors.runs.folder import RunFolder, open_run_folder
from actors.runs.session import begin_session
from algorithms.ranking.features import GROUPS
from algorithms.splits import SPLITS
from jobs.driver import cluster, corpus_run, inputs, reading
from jobs.driver.attempts import Attempts
from jobs.driver.command import JobConfig, command_line
from jobs.reports import page

JOB: Final = "ranker"
METHODS: Final = {"ranker": "step checks, form of the answer and shape of the text, boosted by LightGBM"}


class RankerConfig(JobConfig):
    """Flags of `jobs.train --method ranker`."""

    method: Literal["ranker"]
    """ranker: step checks, form of the answer and shape of the text, boosted by LightGBM."""
    data: tuple[str, ...] = Field(min_length=1)
    """Runs of jobs.grade, as paths or URIs. Trains on their split train, calibrates on validation, measures on
    held_out."""
    output: str
    """Folder of the run, a path or URI. The ranker is in OUTPUT/ranker."""
    features: tuple[str, ...] = tuple(GROUPS)
    """Groups of features: checks, answer, asked, text."""
    num_trees: int = Field(default=2000, ge=1)
    """Number of trees at most."""
    patience: int = Field(default=50, ge=1)
    """Stop when the loss on the validation problems has not fallen for so many trees."""
    learning_rate: float = Field(default=0.03, gt=0, le=1)
    """Learning rate of the boosting."""
    num_leaves: int = Field(default=31, ge=2)
    """Leaves of a tree at most."""
    min_leaf: int = Field(default=100, ge=1)
    """Samples in a leaf at least."""
    num_workers: int = Field(default=1, ge=1)
    """Number of workers. Each holds its part of the features in memory."""
    cpus_per_worker: float | None = Field(default=None, gt=0)
    """CPU slots and threads of each worker. Default: 1 on a cluster, an equal share of the cores locally."""
    max_failures: int = Field(default=3, ge=0)
    """How often workers may die before the run stops."""
    seed: int = 0
    """Seed of the samples and features that each tree sees."""

    @field_validator("features")
    @classmethod
    def _check_features(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in GROUPS]
        if unknown or not value:
            raise ValueError(f"must be some of {', '.join(GROUPS)}")
        return tuple(name for name in GROUPS if name in value)


def run(config: RankerConfig) -> int:
    """Train, or start again. Returns the exit status."""
    corpora = tuple(inputs.open_corpus(uri, "graded", {}, None, None, None, flag="--data") for uri in config.data)
    output = open_run_folder(config.output)
    plan = BoostingPlan(
        config.features,
        config.num_trees,
        config.patience,
        config.learning_rate,
        config.num_leaves,
        config.min_leaf,
        config.seed,
        corpus_run.threads_each(config.cpus_per_worker, config.num_workers) or 1,
    )
    identity = {
        "data": [inputs.fingerprint(corpus) for corpus in corpora],
        "ranker": {name: value for name, value in dataclasses.asdict(plan).items() if name != "num_threads"},
    }
    record = manifest.open_run(output, JOB, identity, config.model_dump(mode="json"), command_line())
    if record.status == "finished":
        print(f"{config.output} is already finished")
        return _close(config, output, record)
    session = record.sessions[-1].name
    print(f"training a ranker on {', '.join(config.data)} -> {config.output}", flush=True)
    begin_session(output, session)
    ask = cluster.Ask(config.cpus_per_worker or 1, 0)
    with corpus_run.ray_with(config.num_workers, config.num_workers, ask, "--num-workers"):
        counts = _prepare(corpora, plan, output)
        print(f"{counts['train']:,} samples to train on; workers are starting", flush=True)
        _fit(config, plan, output, session)
    record.status = "finished"
    record.totals = counts
    record.sessions[-1].finished_at = time.time()
    record.save(output)
    output.session.delete_file()
    output.examples.delete_folder()
    return _close(config, output, record)


def _prepare(corpora: tuple[Corpus, ...], plan: BoostingPlan, output: RunFolder) -> dict[str, Any]:
    """Write the features of all samples to the run's folder. Returns their numbers by split, and the unused ones."""
    import ray.data

    output.examples.delete_folder()
    output.examples.make_folder()
    numbered = [(corpus, part) for corpus in corpora for part in reading.plan_reading(corpus)]
    given = [
        pa.table({"part": [pickle.dumps((corpus.only(part.file), number, part))]})
        for number, (corpus, part) in enumerate(numbered)
    ]
    read: Any = read_features
    with cluster.worker_errors():
        ray.data.from_arrow(given).map_batches(
            read, batch_size=1, fn_kwargs={"groups": plan.groups}
        ).write_parquet(output.examples.path, filesystem=output.examples.filesystem)  # fmt: skip
    splits: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    grades: Counter[tuple[str, bool]] = Counter()
    for file in output.examples.files():
        table = pq.read_table(file.path, filesystem=output.examples.filesystem, columns=["split", "right", "unused"])
        used = table.filter(pc.is_null(table["unused"]))
        splits.update(used["split"].to_pylist())
        grades.update(zip(used["split"].to_pylist(), used["right"].to_pylist(), strict=True))
        unused.update(table["unused"].drop_null().to_pylist())
    for split in ("train", "validation"):
        if not (grades[split, True] and grades[split, False]):
            raise UserError(
                f"--data: a ranker needs right and wrong samples in the split {split}, got {grades[split, True]} and "
                f"{grades[split, False]} of {sum(splits.values())}: grade more problems, or with other --splits"
            )
    return {**{name: splits[name] for name in SPLITS}, "unused": dict(unused.most_common())}


def _fit(config: RankerConfig, plan: BoostingPlan, output: RunFolder, session: str) -> None:
    import ray.data
    from ray.data.expressions import col
    from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.lightgbm import LightGBMTrainer

    class Interruptible(LightGBMTrainer):
        """Leaves Ctrl-C to the command. Ray Train would exit with status 0, or with a stack trace."""

        def _register_sigint_handler(self, controller: Any) -> None:
            pass

    examples = ray.data.read_parquet(output.examples.path, filesystem=output.examples.filesystem, schema=EXAMPLE_SCHEMA)
    attempts = Attempts(config.max_failures)
    while True:
        trainer = Interruptible(
            fit_worker,
            train_loop_config={"plan": plan, "run": output.patient(), "session": session},
            scaling_config=ScalingConfig(
                num_workers=config.num_workers, resources_per_worker={"CPU": config.cpus_per_worker or 1}
            ),
            run_config=RunConfig(
                name="_train",
                storage_path=output.path,
                storage_filesystem=output.root.filesystem,
                failure_config=FailureConfig(max_failures=0),
            ),
            datasets={split: examples.filter(expr=col("split") == split) for split in SPLITS},
            dataset_config=DataConfig(datasets_to_split=["train"]),
        )
        try:
            trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            attempts.check(error)
        else:
            output.train_state.delete_folder()
            return


def _close(config: RankerConfig, output: RunFolder, record: manifest.Manifest) -> int:
    facts = page.write_report(output, record)
    print(page.summary(facts, config.output, record))
    print(f"ranker      {output.ranker.path}")
    return 0
