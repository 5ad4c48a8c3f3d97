"""Simulated recorded samples."""

import numpy as np

from algorithms.voting.recorded import Recorded
from algorithms.voting.tally import Candidates


def ranked_world(num_problems, num_samples, seed, num_wrong=4):
    """Problems of varying difficulty. Right samples have scores near 0.65, wrong ones near 0.35; some are voteless.

    Class 0 is right; classes 1 to `num_wrong` are wrong and of falling popularity.
    """
    generator = np.random.default_rng(seed)
    popularity = 0.5 ** np.arange(num_wrong)
    problems = []
    for _ in range(num_problems):
        skill = generator.beta(1.2, 1.8)
        is_right = generator.random(num_samples) < skill
        wrong = 1 + generator.choice(num_wrong, size=num_samples, p=popularity / popularity.sum())
        classes = np.where(is_right, 0, wrong)
        scores = 1 / (1 + np.exp(-(np.where(is_right, 0.7, -0.7) + generator.standard_normal(num_samples))))
        is_voteless = generator.random(num_samples) < 0.05
        problems.append(
            Recorded(
                Candidates(
                    [None if none else int(number) for number, none in zip(classes, is_voteless, strict=True)],
                    scores.tolist(),
                    (-generator.random(num_samples)).tolist(),
                ),
                [None if none else bool(right) for right, none in zip(is_right, is_voteless, strict=True)],
                generator.integers(50, 500, size=num_samples).tolist(),
            )
        )
    return problems
