"""Orders: in which order the survivors go on. The decoder sees them as a row of words, so it matters there."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from thinsight.evidence import Evidence
from thinsight.tokens import Tokens


class Order(Protocol):
    """``order(tokens, evidence)`` -> (tokens,) int64: the rows of ``tokens``, first one first.

    ``tokens``: the stayers in the order they were in, then the new ones; their ``index`` is where they came from.
    """

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor: ...


@dataclass(frozen=True)
class Raster:
    """By place in the picture; a new token stands where the one stood that it is named after."""

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        return tokens.index.argsort()


@dataclass(frozen=True)
class Appended:
    """As they are: the stayers, then the new tokens."""

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        return torch.arange(len(tokens))
