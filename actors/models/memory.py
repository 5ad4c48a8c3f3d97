"""Memory of the device that a model is on."""

from typing import Final

import psutil
import torch

# What CUDA, its libraries and the CPU's allocator say when an allocation fails. Only the first has a class of its own,
# and not always: torch.AcceleratorError and a plain RuntimeError also carry these texts.
ALLOCATION_FAILED: Final = (
    "out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudaerrormemoryallocation",
    "can't allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, so that less work at once may succeed.

    NCCL says that memory has run out when it cannot connect processes. Less work does not help there.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return (
        isinstance(error, RuntimeError) and "nccl" not in message and any(map(message.__contains__, ALLOCATION_FAILED))
    )


def free_bytes(device: torch.device) -> int:
    """Memory that a model on the device may fill. On a CPU a quarter of it: other workers share the node."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available // 4)
