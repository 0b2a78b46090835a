"""Controls: random tokens, a uniform grid, average pooling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import take_at
from thinsight.reduction.stages import one_each
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class Random:
    """A uniformly random choice, which depends on the seed and on the sample's content.

    What stays under a small budget also stays under a larger one, so that curves over budgets are paired.
    """

    seed: int = 0
    among: str = "visual"
    needs = frozenset({"content"})

    def __post_init__(self) -> None:
        if self.among not in ("visual", "prompt"):
            raise UserError(f"among is visual or prompt, not {self.among!r}")

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        orders = [torch.randperm(len(tokens), generator=generator) for generator in evidence.generators(self.seed)]
        leaving = torch.stack(orders)[:, max(len(tokens) - leave, 0) :].to(tokens.index.device)
        return leaving if tokens.index.dim() > 1 else leaving[0]


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
        pictures, keep = evidence.counted.pictures, len(tokens) - leave
        if len(pictures) == 1 or len(tokens) == sum(pictures):
            sizes = pictures if len(pictures) > 1 else (len(tokens),)
            gone = torch.tensor(self.leaving(sizes, keep), dtype=torch.int64, device=tokens.index.device)
            return gone.expand(*tokens.index.shape[:-1], -1)
        # some are gone: how many of each picture has to be counted
        shown = evidence.picture(tokens.index).reshape(-1, len(tokens)).tolist()
        gone = [self.leaving([row.count(number) for number in sorted(set(row))], keep) for row in shown]
        return torch.tensor(gone, dtype=torch.int64, device=tokens.index.device).reshape(*tokens.index.shape[:-1], -1)

    def leaving(self, sizes: Sequence[int], keep: int) -> list[int]:
        """Rows that leave of pictures of so many tokens, one after the other."""
        stays, before = set(), 0
        for size, kept in zip(sizes, shares(sizes, keep), strict=True):
            stays.update(before + place for place in even_grid(size, kept, self.phase))
            before += size
        return [row for row in range(before) if row not in stays]


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """``total`` divided in proportion to ``sizes``: whole numbers by largest remainder, the sum exact."""
    exact = [total * size / sum(sizes) for size in sizes]
    parts = [int(e) for e in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def even_grid(count: int, keep: int, phase: float = 0.5) -> list[int]:
    """``keep`` places spread evenly over ``count`` raster places, in two dimensions if ``count`` is a square."""
    side = math.isqrt(count)
    if side * side != count or keep == 0:
        return spread(count, keep, phase)
    rows = min(max(round(math.sqrt(keep)), math.ceil(keep / side)), side)
    lines = zip(spread(side, rows, phase), shares([1] * rows, keep), strict=True)
    return [r * side + place for r, k in lines for place in spread(side, k, phase)]


def spread(count: int, keep: int, phase: float = 0.5) -> list[int]:
    """A place in each of ``keep`` equal parts of 0..count-1: distinct whole numbers, ascending; 0.5: their centres."""
    return [math.floor((number + phase) * count / keep) for number in range(keep)]


@dataclass(frozen=True)
class ToNearestPlace:
    """Each leaver goes whole to the stayer of its image that is nearest on the grid of patches.

    Of equally near ones it is the last: `thinsight.methods.controls.Grid` takes the later of two middle places, so that
    windows of k x k come out whole. Where tokens are no square grid nearness is in raster order. An image of which
    nothing stays is lost.
    """

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        staying = tokens.rest(leaving)
        places = nearest_places(tokens.index, evidence)
        gone, here = take_at(places, leaving), take_at(places, staying)  # (n, 3)
        apart = (gone[..., :, None, 1:] - here[..., None, :, 1:]).square().sum(-1)
        elsewhere = gone[..., :, None, 0] != here[..., None, :, 0]
        last = apart * staying.shape[-1] - torch.arange(staying.shape[-1], device=apart.device)
        nearest = last.masked_fill(elsewhere, torch.iinfo(torch.int64).max)
        if staying.shape[-1] == 0:
            return nearest.float()
        return one_each(nearest.argmin(-1), staying.shape[-1]) * ~elsewhere.all(-1, keepdim=True)


def nearest_places(index: Tensor, evidence: Evidence) -> Tensor:
    """(n, 3) int64: image of each token, and its row and column on that image's grid; (0, number) if it has none."""
    sides = [math.isqrt(size) for size in evidence.counted.pictures]
    sides = [side if side * side == size else size for side, size in zip(sides, evidence.counted.pictures, strict=True)]
    return evidence.grid(index, sides)
