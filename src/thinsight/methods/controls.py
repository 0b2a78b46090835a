"""Controls: random tokens, a uniform grid, average pooling."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class Random:
    """A uniformly random choice, which depends on the seed and on the sample's content.

    What stays under a small budget also stays under a larger one, so that curves over budgets are paired.
    """

    seed: int = 0
    among: str = "visual"

    def __post_init__(self) -> None:
        if self.among not in ("visual", "prompt"):
            raise UserError(f"among is visual or prompt, not {self.among!r}")

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        order = torch.randperm(len(tokens), generator=evidence.generator(self.seed))
        return order[max(len(tokens) - leave, 0) :]


@dataclass(frozen=True)
class Grid:
    """What stays lies on an even grid over each image, blind to its content; images share by their number of tokens.

    A square image keeps k of its h x h tokens in about sqrt(k) evenly spaced rows with evenly spaced places in each;
    a token list that is no square (tiles, several merges) is sampled evenly in raster order.

    phase  where in its cell of the grid a token stands: 0.5 the middle, 0 its upper left corner; below 1
    """

    phase: float = 0.5
    among = "visual"

    def __post_init__(self) -> None:
        if not 0 <= self.phase < 1:
            raise UserError(f"the phase of a grid lies in [0, 1), not at {self.phase}")

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        image = evidence.image[tokens.index]
        groups = [(image == number).nonzero().squeeze(1) for number in image.unique()]
        stays = [
            rows[even_grid(len(rows), k, self.phase)]
            for rows, k in zip(groups, shares([len(g) for g in groups], len(tokens) - leave), strict=True)
        ]
        return tokens.rest(torch.cat(stays))


def shares(sizes: list[int], total: int) -> list[int]:
    """``total`` divided in proportion to ``sizes``: whole numbers by largest remainder, the sum exact."""
    exact = [total * size / sum(sizes) for size in sizes]
    parts = [int(e) for e in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def even_grid(count: int, keep: int, phase: float = 0.5) -> Tensor:
    """``keep`` places spread evenly over ``count`` raster places, in two dimensions if ``count`` is a square."""
    side = math.isqrt(count)
    if side * side != count or keep == 0:
        return spread(count, keep, phase)
    rows = min(max(round(math.sqrt(keep)), math.ceil(keep / side)), side)
    lines = zip(spread(side, rows, phase).tolist(), shares([1] * rows, keep), strict=True)
    return torch.cat([r * side + spread(side, k, phase) for r, k in lines])


def spread(count: int, keep: int, phase: float = 0.5) -> Tensor:
    """A place in each of ``keep`` equal parts of 0..count-1: distinct whole numbers, ascending; 0.5: their centres."""
    return ((torch.arange(keep, dtype=torch.float64) + phase) * count / max(keep, 1)).floor().long()


@dataclass(frozen=True)
class ToNearestPlace:
    """Each leaver goes whole to the stayer of its image that is nearest on the grid of patches.

    Of equally near ones it is the last: `thinsight.methods.controls.Grid` takes the later of two middle places, so that
    windows of k x k come out whole. Where tokens are no square grid nearness is in raster order. An image of which
    nothing stays is lost.
    """

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        staying = tokens.rest(leaving)
        weights = torch.zeros(len(leaving), len(staying), dtype=torch.float32)
        image = evidence.image[tokens.index]
        for number in image.unique():
            at = nearest_places(tokens.index, evidence, int(number))
            gone, here = (
                (image[leaving] == number).nonzero().squeeze(1),
                (image[staying] == number).nonzero().squeeze(1),
            )
            if len(here) and len(gone):
                apart = (at[leaving[gone], None] - at[None, staying[here]]).square().sum(-1)
                weights[gone, here[(apart * len(here) - torch.arange(len(here))).argmin(1)]] = 1.0
        return weights


def nearest_places(index: Tensor, evidence: Evidence, image: int) -> Tensor:
    """(n, 2) int64: row and column of tokens of ``image`` on its grid; (0, number) if it has none."""
    columns = (evidence.image == image).nonzero().squeeze(1)
    number = torch.searchsorted(columns, index)
    side = math.isqrt(len(columns))
    side = side if side * side == len(columns) else len(columns)
    return torch.stack([number // side, number % side], 1)
