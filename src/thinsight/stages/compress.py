"""Compressions: what the staying tokens become."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from thinsight.errors import UserError
from thinsight.tokens import Tokens


class Compress(Protocol):
    """``compress(tokens, leaving, weights)`` -> the stayers, in raster order."""

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | None) -> Tokens: ...


@dataclass(frozen=True)
class Discard:
    """Stayers stay as they are; what leaves is lost."""

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | None) -> Tokens:
        return tokens.take(tokens.rest(leaving))


@dataclass(frozen=True)
class WeightedMerge:
    """Each stayer becomes the size-weighted mean of itself and of what is sent to it.

    With sizes s and weights w: s_j' = s_j + sum_i w_ij s_i and x_j' = (s_j x_j + sum_i w_ij s_i x_i) / s_j', so both
    sum(s) and sum(s x) are conserved when the rows of w sum to one.
    """

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | None) -> Tokens:
        if weights is None:
            raise UserError("WeightedMerge needs a correlate stage that says where the leavers go")
        stay, gone = tokens.take(tokens.rest(leaving)), tokens.take(leaving)
        share = weights.cpu().float() * gone.size[:, None]  # (leaving, staying)
        size = stay.size + share.sum(0)
        device, dtype = stay.states.device, stay.states.dtype
        mass = stay.states.float() * stay.size[:, None].to(device) + share.T.to(device) @ gone.states.float()
        states = (mass / size[:, None].to(device)).to(dtype)
        sources = stay.sources + weights.cpu().float().T @ gone.sources
        return Tokens(states, stay.index, stay.visual, size, sources)
