"""Memory that is short: whether an error says so, and giving back what nothing needs any more."""

import gc

import torch

SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",
    "bad_alloc",
)
"""In the words of CUDA, cuBLAS, Metal, torch's allocator for the CPU and C++, which raise no type of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, says that a device or the machine has no memory left."""
    while error is not None:
        words = str(error).lower() if isinstance(error, RuntimeError | OSError) else ""
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in words for sign in SIGNS):
            return True
        error = error.__cause__
    return False


def free_memory() -> None:
    """Give back what nothing refers to any more, in Python and on the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
