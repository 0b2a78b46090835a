"""Average pooling: every token goes to the nearest one that stays."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.evidence import Evidence
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class ToNearestPlace:
    """Each leaver goes whole to the stayer of its image that is nearest on the grid of patches.

    Of equally near ones it is the last: `thinsight.stages.filter.Grid` takes the later of two middle places, so that
    windows of k x k come out whole. Where tokens are no square grid nearness is in raster order. An image of which
    nothing stays is lost.
    """

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        staying = tokens.rest(leaving)
        weights = torch.zeros(len(leaving), len(staying))
        image = evidence.image[tokens.index]
        for number in image.unique():
            at = places(tokens.index, evidence, int(number))
            gone, here = (
                (image[leaving] == number).nonzero().squeeze(1),
                (image[staying] == number).nonzero().squeeze(1),
            )
            if len(here) and len(gone):
                apart = (at[leaving[gone], None] - at[None, staying[here]]).square().sum(-1)
                weights[gone, here[(apart * len(here) - torch.arange(len(here))).argmin(1)]] = 1.0
        return weights


def places(index: Tensor, evidence: Evidence, image: int) -> Tensor:
    """(n, 2) int64: row and column of tokens of ``image`` on its grid; (0, number) if it has none."""
    columns = (evidence.image == image).nonzero().squeeze(1)
    number = torch.searchsorted(columns, index)
    side = math.isqrt(len(columns))
    side = side if side * side == len(columns) else len(columns)
    return torch.stack([number // side, number % side], 1)
