"""What a stage may ask for besides the tokens themselves."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """Facts about the sample that a stage works on.

    layer    the decoder layer that the tokens are about to enter, 0-based
    depth    number of decoder layers
    image    (columns,) int64: which of the sample's images each prompt column shows, -1 for text
    content  the sample's own input as bytes (token ids and pixels, no padding), read only when asked for; without a
             cache generate sends a longer prompt for each token, so that this changes with it
    """

    layer: int
    depth: int
    image: Tensor
    content: Callable[[], bytes]

    def generator(self, seed: int) -> torch.Generator:
        """A random source that depends on ``seed`` and the sample's content alone, so not on its batch or device."""
        digest = hashlib.blake2b(self.content(), digest_size=8, key=str(seed).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
