"""Fits a boosted ranker: solutions -> features, and the loop of a Ray Train worker.

Trains on problems of the split `train`, stops early and calibrates on `validation`, and measures on `held_out`. Each
worker boosts on its part of the training samples; LightGBM adds up their histograms. Every worker has all validation
samples, so that all of them stop at the same tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from actors.ranking.boosted import MODEL
from actors.ranking.examples import EXAMPLE_FIELDS
from actors.ranking.folder import RankerFolder
from actors.ranking.measuring import calibrated, measured
from actors.runs.folder import RunFolder
from actors.runs.session import check_session
from algorithms.ranking.features import feature_matrix, feature_names
from algorithms.ranking.metrics import Bools, Ints
from algorithms.ranking.solutions import Solution

EXAMPLE_SCHEMA: Final = pa.schema([*EXAMPLE_FIELDS, ("features", pa.list_(pa.float32()))])


@dataclass(frozen=True)
class BoostingPlan:
    """Everything that decides a boosted ranker."""

    groups: tuple[str, ...]
    num_trees: int
    patience: int
    learning_rate: float
    num_leaves: int
    min_leaf: int
    seed: int
    num_threads: int

    def parameters(self) -> dict[str, Any]:
        """For LightGBM. The samples of one problem are alike: much bagging and few features a tree."""
        return {
            "objective": "binary",
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_leaf,
            "feature_fraction": 0.5,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 5.0,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": self.num_threads,
            "verbosity": -1,
        }


def describe_features(solutions: Sequence[Solution], groups: tuple[str, ...]) -> list[dict[str, Any]]:
    """The columns of EXAMPLE_SCHEMA that only a boosted ranker has."""
    return [{"features": row} for row in feature_matrix(solutions, groups)]


@dataclass(frozen=True)
class _Samples:
    """Examples as arrays, in the order of the input: features [N, F], right [N], problems [N]."""

    features: Any
    right: Bools
    problems: Ints


def fit_worker(config: dict[str, Any]) -> None:
    """Boost on this worker's samples. The first worker writes the ranker. `config`: plan, run, session."""
    import lightgbm
    import ray.train
    from ray.train.lightgbm import get_network_params

    plan: BoostingPlan = config["plan"]
    run: RunFolder = config["run"]
    train, validation = (_samples(ray.train.get_dataset_shard(name)) for name in ("train", "validation"))
    names = list(feature_names(plan.groups))
    data = lightgbm.Dataset(train.features, train.right, feature_name=names)
    context = ray.train.get_context()
    network = get_network_params() if context.get_world_size() > 1 else {}  # the model's file holds its ports
    booster = lightgbm.train(
        plan.parameters() | network,
        data,
        num_boost_round=plan.num_trees,
        valid_sets=[lightgbm.Dataset(validation.features, validation.right, reference=data)],
        callbacks=[lightgbm.early_stopping(plan.patience, verbose=False)],
    )
    if context.get_world_rank() == 0:
        check_session(run, config["session"])
        held_out = _samples(ray.train.get_dataset_shard("held_out"))
        _write(run, plan, booster, validation, held_out)
    ray.train.report({"num_trees": booster.best_iteration})


def _samples(shard: Any) -> _Samples:
    batches = list(shard.iter_batches(batch_size=None, batch_format="pyarrow"))
    table = pa.concat_tables(batches) if batches else EXAMPLE_SCHEMA.empty_table()
    table = table.sort_by("place")
    width = len(table["features"][0]) if table.num_rows else 0
    features = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return _Samples(
        features.reshape(table.num_rows, width),
        table["right"].to_numpy().astype(bool),
        table["problem"].to_numpy(),
    )


def _write(run: RunFolder, plan: BoostingPlan, booster: Any, validation: _Samples, held_out: _Samples) -> None:
    """Calibrate, measure and save."""
    raw = booster.predict(validation.features)
    calibration = calibrated(raw, validation.right)
    facts = {"validation": measured(calibration(raw), validation.right, validation.problems)}
    if len(held_out.right):
        scores = calibration(booster.predict(held_out.features))
        facts["held_out"] = measured(scores, held_out.right, held_out.problems)
    gains = booster.feature_importance("gain")
    importance = dict(sorted(zip(booster.feature_name(), map(float, gains), strict=True), key=lambda item: -item[1]))
    settings = {
        "groups": list(plan.groups),
        "features": booster.feature_name(),
        "num_trees": booster.best_iteration or booster.num_trees(),
        "measured": facts,
        "importance": importance,
    }
    folder = RankerFolder(run.ranker, "boosted", calibration, settings)
    folder.storage.make_folder()
    (folder.storage / MODEL).write_bytes(booster.model_to_string(num_iteration=booster.best_iteration).encode())
    folder.save()
