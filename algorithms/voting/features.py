"""What `posterior` knows about an answer class: how many samples state it, and how far the ranker trusts them.

The start is naive Bayes: each sample of a class adds its log-odds, so evidence grows with the sum. But samples of one
model repeat each other's mistakes, so evidence grows more slowly than their number. Each sum is therefore given as a
share of all samples and as that share times log n, and the fit decides. This holds for any number n of samples.

Features that are the same for all classes of a question only move probability between the classes and the outcome
"none of these is right".

Shape legend: ... any leading axes, K classes, F features, C checks.
"""

from typing import Final

import numpy as np

from algorithms.voting.tally import FloatArray, Tally

COUNT_FEATURES: Final = (
    "one",  # the same for all classes: their log-odds against "none is right"
    "log_seen",  # log n, the same for all classes
    "voteless",  # share of samples without a parsable answer, the same for all classes
    "log_classes",  # log of the number of classes, the same for all classes
    "share",  # samples of the class / n
    "share_log_seen",
    "log_count",
    "single",  # 1 if only one sample states it
)
SCORE_FEATURES: Final = (
    "question_odds",  # mean log-odds of all voting samples, the same for all classes
    "odds_share",  # sum of the log-odds of the class / n
    "odds_share_log_seen",
    "mean_odds",
    "best_odds",
    "score_share",  # sum of its scores / sum of all scores
)


def feature_names(*, has_scores: bool, num_checks: int) -> tuple[str, ...]:
    """The names of the features, in the order of axis F."""
    scores = SCORE_FEATURES if has_scores else ()
    return (*COUNT_FEATURES, *scores, *(f"check_{index}" for index in range(num_checks)))


def class_features(tally: Tally, *, has_scores: bool, num_checks: int) -> FloatArray:
    """The features of each class, [..., K, F]; 0 for a class without samples."""
    if tally.checks.shape[-1] < num_checks:
        raise ValueError(f"the model reads {num_checks} checks of each sample, but there are {tally.checks.shape[-1]}")
    counts, present = tally.counts, tally.is_present
    seen = np.maximum(tally.num_seen, 1)[..., None].astype(np.float64)
    log_seen = np.log(seen)
    votes = counts.sum(axis=-1, keepdims=True)
    share = counts / seen
    per_class = np.where(present, counts, 1.0)
    columns = [
        np.ones_like(counts),
        log_seen,
        1 - votes / seen,
        np.log(np.maximum(present.sum(axis=-1, keepdims=True), 1)),
        share,
        share * log_seen,
        np.log(per_class),
        counts == 1,
    ]
    if has_scores:
        tally.require("score")
        odds, total = tally.log_odds, tally.scores.sum(axis=-1, keepdims=True)
        columns += [
            odds.sum(axis=-1, keepdims=True) / np.maximum(votes, 1),
            odds / seen,
            odds / seen * log_seen,
            odds / per_class,
            tally.best_log_odds,
            tally.scores / np.where(total > 0, total, 1.0),
        ]
    features = np.empty((*counts.shape, len(columns) + num_checks))
    for index, column in enumerate(columns):
        features[..., index] = column
    features[..., len(columns) :] = tally.checks[..., :num_checks] / per_class[..., None]
    features *= present[..., None]
    return features
