"""A ranker that boosts trees over facts of a solution: LightGBM, minutes on a CPU."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from actors.errors import UserError
from algorithms.ranking.calibration import Calibration
from algorithms.ranking.features import GROUPS, feature_matrix, feature_names
from algorithms.ranking.solutions import Solution

if TYPE_CHECKING:
    from actors.ranking.folder import RankerFolder

MODEL: Final = "model.txt"


class BoostedRanker:
    """A LightGBM model, `text` in its own format, over the features in `groups`."""

    def __init__(self, text: str, groups: Sequence[str], calibration: Calibration, num_threads: int = 1) -> None:
        import lightgbm

        self._booster = lightgbm.Booster(model_str=text)
        self._groups = tuple(groups)
        self._calibration = calibration
        self._num_threads = num_threads

    @classmethod
    def load(cls, folder: "RankerFolder", device: str = "cpu", num_threads: int | None = None) -> "BoostedRanker":
        """The ranker in a folder. Raises UserError if it was trained on other features than this version has."""
        assert device == "cpu", "LightGBM scores on a CPU; jobs.rank refuses GPUs"
        groups, names = folder.settings["groups"], folder.settings["features"]
        if not set(groups) <= GROUPS.keys() or list(feature_names(groups)) != names:
            raise UserError(f"{folder.storage.path} was trained on other features: train it again with this version")
        return cls((folder.storage / MODEL).read_bytes().decode(), groups, folder.calibration, num_threads or 1)

    def score(self, solutions: Sequence[Solution]) -> list[float]:
        """For each solution a calibrated probability in (0, 1) that it is right."""
        if not solutions:
            return []
        raw = self._booster.predict(feature_matrix(solutions, self._groups), num_threads=self._num_threads)
        return [float(value) for value in self._calibration(np.asarray(raw, dtype=np.float64))]
