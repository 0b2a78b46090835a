"""Peak memory where no allocator counts it: a torch dispatch mode that counts the bytes of live tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Inside this context every tensor that an operation makes counts from then on until nothing holds it any more.

    What was there before (weights, inputs) does not count, and neither does what a kernel keeps to itself, as a fused
    attention does its tiles. ``now`` and ``peak`` are bytes; views of one storage count once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.before: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One operation: forget what has died, add what is new."""
        out = func(*args, **(kwargs or {}))
        self.held = {key: (ref, size) for key, (ref, size) in self.held.items() if not ref.expired()}
        given = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)} - self.held.keys()
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and _key(tensor) not in given:
                storage = tensor.untyped_storage()
                self.held[_key(tensor)] = (StorageWeakRef(storage), storage.nbytes())
        self.now = sum(size for _, size in self.held.values())
        self.peak = max(self.peak, self.now)
        return out


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
