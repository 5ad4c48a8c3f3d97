"""`jobs.train --method ranker`: graded samples -> a boosted ranker in OUTPUT/ranker."""

import dataclasses
import functools
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from actors.ranking.fitting import EXAMPLE_SCHEMA, BoostingPlan, describe_features, fit_worker
from actors.runs.folder import RunFolder
from algorithms.ranking.features import GROUPS
from algorithms.splits import SPLITS
from jobs.driver import ranker_run
from jobs.driver.ranker_run import RankerRun, RankerRunConfig

METHOD: Final = "ranker"
WHAT: Final = "step checks, form of the answer and shape of the text, boosted by LightGBM"


class RankerConfig(RankerRunConfig):
    """Flags of `jobs.train --method ranker`."""

    method: Literal["ranker"]
    """ranker: step checks, form of the answer and shape of the text, boosted by LightGBM."""
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

    @field_validator("features")
    @classmethod
    def _check_features(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in GROUPS]
        if unknown or not value:
            raise ValueError(f"must be some of {', '.join(GROUPS)}")
        return tuple(name for name in GROUPS if name in value)


def run(config: RankerConfig) -> int:
    """Train, or start again. Returns the exit status."""
    plan = BoostingPlan(
        config.features,
        config.num_trees,
        config.patience,
        config.learning_rate,
        config.num_leaves,
        config.min_leaf,
        config.seed,
        config.threads_per_worker or 1,
    )
    settings = {name: value for name, value in dataclasses.asdict(plan).items() if name != "num_threads"}
    describe = functools.partial(describe_features, groups=plan.groups)
    trainer = functools.partial(_trainer, plan)
    corpora = ranker_run.open_data(config)
    return ranker_run.run(RankerRun(config, corpora, {"ranker": settings}, describe, EXAMPLE_SCHEMA, trainer))


def _trainer(plan: BoostingPlan, output: RunFolder, session: str, shared: dict[str, Any]) -> Any:
    import ray.data
    from ray.data.expressions import col
    from ray.train import DataConfig
    from ray.train.lightgbm import LightGBMTrainer

    examples = ray.data.read_parquet(output.examples.path, filesystem=output.examples.filesystem, schema=EXAMPLE_SCHEMA)
    return ranker_run.interruptible(LightGBMTrainer)(
        fit_worker,
        train_loop_config={"plan": plan, "run": output.patient(), "session": session},
        datasets={split: examples.filter(expr=col("split") == split) for split in SPLITS},
        dataset_config=DataConfig(datasets_to_split=["train"]),
        **shared,
    )
