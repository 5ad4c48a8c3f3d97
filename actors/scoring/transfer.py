"""Index arrays to the device, in one copy that the host does not wait for.

Each copy of its own from ordinary memory stops the host until the device has done everything before it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from algorithms.prefix_forest import IntArray


def to_device(arrays: Sequence[IntArray], device: torch.device) -> list[Tensor]:
    """One-dimensional integer arrays as tensors on a device, each a view of one buffer."""
    joined = torch.from_numpy(np.concatenate([np.asarray(array, dtype=np.int64) for array in arrays]))
    if device.type == "cuda":
        joined = joined.pin_memory().to(device, non_blocking=True)
    return list(joined.split([len(array) for array in arrays]))
