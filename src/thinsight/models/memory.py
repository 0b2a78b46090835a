"""Whether an error says that memory is short."""

import torch

SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")
"""In the words of CUDA, cuBLAS, Metal and torch's allocator for the CPU, which raise no type of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, says that a device or the machine has no memory left."""
    while error is not None:
        words = str(error).lower() if isinstance(error, RuntimeError | OSError) else ""
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in words for sign in SIGNS):
            return True
        error = error.__cause__
    return False
