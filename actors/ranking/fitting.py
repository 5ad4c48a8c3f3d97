"""Fits a boosted ranker: graded samples -> features, and the loop of a Ray Train worker.

Trains on problems of the split `train`, stops early and calibrates on `validation`, and measures on `held_out`. Each
worker boosts on its part of the training samples; LightGBM adds up their histograms. Every worker has all validation
samples, so that all of them stop at the same tree.
"""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from actors.errors import UserError
from actors.ranking.boosted import MODEL
from actors.ranking.folder import RankerFolder
from actors.runs.corpus import id_hash
from actors.runs.folder import RunFolder
from actors.runs.session import check_session
from algorithms.ranking.calibration import fit_calibration
from algorithms.ranking.features import feature_matrix, feature_names
from algorithms.ranking.metrics import Bools, Floats, Ints, area_under_curve, count_pairs, reliability
from algorithms.ranking.solutions import Solution
from algorithms.splits import SPLITS, plain_question
from algorithms.voting.intervals import resampled_means

ROWS_PER_BLOCK: Final = 2000
EXAMPLE_SCHEMA: Final = pa.schema(
    [
        ("place", pa.int64()),  # in the input: part and row
        ("split", pa.string()),
        ("problem", pa.uint64()),  # hash of the question
        ("right", pa.bool_()),
        ("features", pa.list_(pa.float32())),
        ("unused", pa.string()),  # the reason; such a row has no features
    ]
)


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


def read_features(batch: Mapping[str, Any], groups: tuple[str, ...]) -> Iterator[pa.Table]:
    """The examples of the pickled (corpus, number of the part, part) in `batch["part"]`: tables of EXAMPLE_SCHEMA."""
    for pickled in batch["part"]:
        corpus, number, part = pickle.loads(pickled)
        for first, table in enumerate(corpus.tables(part, ROWS_PER_BLOCK)):
            yield _examples(table.to_pylist(), (number << 32) + first * ROWS_PER_BLOCK, groups)


def _examples(rows: list[dict[str, Any]], place: int, groups: tuple[str, ...]) -> pa.Table:
    unused = [_unused(row) for row in rows]
    used = [row for row, reason in zip(rows, unused, strict=True) if reason is None]
    features = iter(feature_matrix([Solution(r["question"], r["rationale"], r["answer"]) for r in used], groups))
    return pa.Table.from_pylist(
        [
            {
                "place": place + offset,
                "split": row["split"] if reason is None else None,
                "problem": id_hash(plain_question(row["question"] or "")),
                "right": row["correct"],
                "features": next(features) if reason is None else None,
                "unused": reason,
            }
            for offset, (row, reason) in enumerate(zip(rows, unused, strict=True))
        ],
        schema=EXAMPLE_SCHEMA,
    )


def _unused(row: dict[str, Any]) -> str | None:
    """Why a graded sample teaches nothing, None if it does."""
    if row["reason"] is not None:
        return str(row["reason"]).split(":")[0]
    if row["correct"] is None:
        return "unknown grade"
    if row["rationale"] is None:
        return "no text"
    return None if row["split"] in SPLITS else "no split"


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
    try:
        calibration = fit_calibration(raw, validation.right)
    except ValueError as error:
        raise UserError(f"--data: {error} in the split validation") from None
    measured = {"validation": _measured(calibration(raw), validation)}
    if len(held_out.right):
        measured["held_out"] = _measured(calibration(booster.predict(held_out.features)), held_out)
    gains = booster.feature_importance("gain")
    importance = dict(sorted(zip(booster.feature_name(), map(float, gains), strict=True), key=lambda item: -item[1]))
    settings = {
        "groups": list(plan.groups),
        "features": booster.feature_name(),
        "num_trees": booster.best_iteration or booster.num_trees(),
        "measured": measured,
        "importance": importance,
    }
    folder = RankerFolder(run.ranker, "boosted", calibration, settings)
    folder.storage.make_folder()
    (folder.storage / MODEL).write_bytes(booster.model_to_string(num_iteration=booster.best_iteration).encode())
    folder.save()


def _measured(scores: Floats, samples: _Samples) -> dict[str, Any]:
    """How good calibrated scores are, with 95% intervals of a bootstrap over problems for the pairs."""
    pairs = count_pairs(scores, samples.right, samples.problems)
    bins = reliability(scores, samples.right)
    facts: dict[str, Any] = {
        "samples": len(scores),
        "problems": len(np.unique(samples.problems)),
        "right": float(samples.right.mean()),
        "area_under_curve": area_under_curve(scores, samples.right) if 0 < samples.right.mean() < 1 else None,
        "calibration_error": bins.expected_error,
        "reliability": {name: np.asarray(values).tolist() for name, values in asdict(bins).items()},
        "pairs": float(pairs.pairs.sum()),
        "pair_accuracy": None,
    }
    if len(pairs.pairs):
        means = resampled_means(np.stack([pairs.won, pairs.pairs], axis=1))
        low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
        facts["pair_accuracy"] = {"mean": pairs.accuracy, "low": float(low), "high": float(high)}
    return facts
