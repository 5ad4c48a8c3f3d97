"""Memory of the device that a model is on."""

import psutil
import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed. The CPU allocator has no error class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_bytes(device: torch.device) -> int:
    """Memory that a model on the device may fill. On a CPU a quarter of it: other workers share the node."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available // 4)
