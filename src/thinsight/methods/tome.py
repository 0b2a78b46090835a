"""ToMe (arXiv:2210.09461): bipartite soft matching of keys, matched pairs merged with their sizes.

Tokens in even places are matched with the most similar one in an odd place, and the r best pairs of a block merge into
(s_i x_i + s_j x_j) / (s_i + s_j), s the number of patches a token stands for. Places are those in the
sequence as it is now, class token included; keys of the block are compared, the mean over heads. A class token
neither leaves nor takes anything in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.schedules import Even, check_keep, count
from thinsight.reduction.sources import take_at
from thinsight.reduction.stages import Blend, Routes, WeightedMerge, one_each
from thinsight.reduction.ties import cosines, descending, distances, largest
from thinsight.reduction.tokens import Tokens, places


@dataclass(frozen=True)
class TomePairs:
    """As many leave at every block, at most half of those present.

    keep        what is left after the last block; equal numbers leave everywhere, more in the first blocks only where
                halving could not make up for it later. A budget below all halvings is missed by as little as possible
    r           published schedule, whatever ``keep`` says: this many leave at every block (int), or a list of numbers,
                one for each block, zeros where it ends
    inflection  with an int r: from floor(r (1 - inflection)) in the first block in a straight line to 2r less that in
                the last one (-1: the paper's decreasing schedule, 0: constant)
    """

    keep: int | float = 0.5
    r: int | Sequence[int] | None = None
    inflection: float = 0.0
    inclusive = True

    def __post_init__(self) -> None:
        check_keep(self.keep)
        several = isinstance(self.r, Sequence) and not isinstance(self.r, str)
        if several:
            object.__setattr__(self, "r", tuple(self.r))
        for pairs in self.r if several else () if self.r is None else (self.r,):
            if isinstance(pairs, bool) or not isinstance(pairs, int) or pairs < 0:
                raise UserError(f"r={self.r} is neither a number of pairs (0, 1, 2, ...) nor a list of them")
        if not -1 <= self.inflection <= 1:
            raise UserError(f"inflection={self.inflection} is no number between -1 and 1")

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        if self.r is not None:
            leave = self.removed(stages)[stage]
        else:
            last, later = count(self.keep, total), stages - stage - 1
            even = present - Even(self.keep)(present, stage, stages, total)
            leave = max(even, present - last * 2**later)
        return present - min(leave, present // 2)

    def removed(self, stages: int) -> list[int]:
        """The published schedule: pairs merged at each of ``stages`` blocks."""
        if isinstance(self.r, tuple):
            if len(self.r) > stages:
                raise UserError(f"r names {len(self.r)} blocks, and there are {stages}")
            return [*self.r, *[0] * (stages - len(self.r))]
        first = int(self.r * (1.0 - self.inflection))
        slope = (2 * self.r - 2 * first) / max(stages - 1, 1)
        return [int(first + slope * stage) for stage in range(stages)]


def pair_similarity(index: Tensor, visual: Tensor, evidence: Evidence, rows: Tensor | None = None) -> Tensor:
    """(even, odd) float64: cosines of the keys of all tokens ``index``; -inf where one is no patch.
    ``rows``: of these tokens in even places only."""
    keys = evidence.keys(index).float().mean(-3)
    if rows is None:
        even, patches = keys[..., ::2, :], visual[..., ::2]
    else:
        even, patches = take_at(keys, rows), take_at(visual, rows)
    pairs = patches[..., :, None] & visual[..., None, 1::2]
    return cosines(even, keys[..., 1::2, :]).masked_fill(~pairs, -torch.inf)


@dataclass(frozen=True)
class BipartiteSources:
    """The tokens in even places leave that are most similar to one in an odd place."""

    among = "all"
    needs = frozenset({"attention"})

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        best = pair_similarity(tokens.index, tokens.visual, evidence).amax(-1)
        return 2 * descending(-distances(best), scale=1.0)[..., :leave]


@dataclass(frozen=True)
class BipartitePartners:
    """Each leaver goes whole to the token in an odd place that it is most similar to; follows `BipartiteSources`."""

    needs = frozenset({"attention"})

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        similarity = pair_similarity(tokens.index, tokens.visual, evidence, leaving)
        partner = 2 * largest(-distances(similarity), scale=1.0) + 1
        staying = tokens.rest(leaving)
        return one_each(torch.searchsorted(staying, partner), staying.shape[-1])


@dataclass(frozen=True)
class Merge(WeightedMerge):
    """`WeightedMerge`, after which a token stands where the first of its members stood, if they go on in raster order.

    order  raster | official: as `OfficialOrder` has it
    """

    order: str = "raster"

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | Routes | Blend | None) -> Tokens:
        after = super().__call__(tokens, leaving, weights)
        if self.order != "raster" or after.origin is not None:
            return after
        first = after.index.scatter_reduce(-1, weights.argmax(-1), take_at(tokens.index, leaving), "amin")
        return replace(after, index=first)


@dataclass(frozen=True)
class EvenOddOrder:
    """Class tokens, then what is left in even places, then the odd ones (released code). Without a class token the even
    ones go on by descending similarity: the code sorts them for its sake only."""

    needs = frozenset({"attention"})

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        before = evidence.sequence
        place = torch.searchsorted(before.index, tokens.index)
        odd = place % 2
        if tokens.patches < len(tokens):
            return torch.where(tokens.visual, 1 + odd, 0).argsort(dim=-1, stable=True)
        gone = len(before) - len(tokens)  # all from even places
        even = places(odd == 0, (len(before) + 1) // 2 - gone)
        best = pair_similarity(before.index, before.visual, evidence).amax(-1).gather(-1, take_at(place, even) // 2)
        even = take_at(even, descending(-distances(best), scale=1.0))
        return torch.cat([even, places(odd == 1, len(before) // 2)], -1)
