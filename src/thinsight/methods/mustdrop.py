"""MustDrop (arXiv:2411.10803): windows merge in the encoder, key patches are protected, the rest leaves by attention.

1. Vision tower: a window whose mean cosine is at least the threshold merges into its middle (`Windows`, `ToMiddle`).
2. Behind the tower: the patches with the highest class-token attention are noted as key (`KeyTokens`).
3. Decoder: token i leaves where sum_t a_ti and max_t a_ti are below their thresholds and i is not key (`TextReceived`).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.methods.class_attention import UsesClassScore
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.schedules import check_keep, count
from thinsight.reduction.sources import take_at
from thinsight.reduction.stages import one_each
from thinsight.reduction.ties import at_least, cosines, descending
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class KeyTokens(UsesClassScore):
    """None leaves; the patches with the highest `ClassScore` are noted, by number, as key for the decoder stages.

    share  of the patches is noted, rounded up;  cls, source  see `ClassScore`
    """

    share: float = 0.08
    cls: str = "token"
    source: str = "next"
    among = "visual"
    adaptive = True
    spares = True

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        count = math.ceil(self.share * len(tokens))
        order = descending(self.class_score(evidence, tokens.index))
        evidence.notes.key = evidence.place(take_at(tokens.index, order[..., :count]))
        return order[..., :0]


@dataclass(frozen=True)
class TextReceived:
    """Visual tokens leave that get too little attention from the text, unless they were noted as key.

    With a_ti the attention (mean over heads) of text token t to visual token i, b_i = sum_t a_ti and g_i = max_t a_ti:
    token i leaves where b_i < ``total`` * sum_j b_j and g_i < ``single``. Under a schedule with numbers those leave
    that have the least b_i, key tokens after all others.

    total, single  the thresholds tau of the whole text and of a single token
    """

    total: float = 0.001
    single: float = 0.001
    among = "visual"
    adaptive = True
    needs = frozenset({"attention", "text"})
    attention_rows = "question"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        paid = evidence.attention(evidence.text, tokens.index)
        whole = paid.sum(-2)
        key = (evidence.place(tokens.index)[..., :, None] == key_tokens(evidence)[..., None, :]).any(-1)
        if leave is None:
            wanted = at_least(whole, self.total * whole.sum()) | at_least(paid.amax(-2), self.single)
            return (~wanted & ~key).nonzero().squeeze(1)
        order = descending(whole)
        order = take_at(order, (~take_at(key, order)).to(torch.uint8).argsort(dim=-1, stable=True))
        return order[..., len(tokens) - leave :]


def key_tokens(evidence: Evidence) -> Tensor:
    """(n,) numbers of the tokens that `KeyTokens` noted in the pictures of this prompt, as `Evidence.place` counts."""
    images, pictures = evidence.notes.images, evidence.counted.pictures
    if images is None:
        raise UserError(
            "key tokens are known by their picture, and here pictures and image tokens do not match in number"
        )
    if not images:
        return evidence.last[..., :0]
    return torch.cat([notes.key + sum(pictures[:number]) for number, notes in enumerate(images)], -1)


@dataclass(frozen=True)
class Windows:
    """Of each uniform window of patches all leave but the middle one.

    A window is uniform if the mean cosine of any two of its patches is at least ``threshold``. What the middle ones
    are is noted for `thinsight.reduction.stages.ScoreOrder`, the most uniform window first.

    window   side, in patches; what is left over at the right and at the bottom belongs to no window
    number   this many windows merge, the most uniform ones, whatever the threshold; None: as many as reach it
    keep     no more than leaves this many patches (count or fraction); None: no limit
    """

    threshold: float = 0.8
    window: int = 3
    number: int | None = None
    keep: int | float | None = None
    among = "visual"
    adaptive = True

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 2:
            raise UserError(f"window={self.window} is no side of a window: 2, 3, ... patches")
        if self.keep is not None:
            check_keep(self.keep)

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        leave = int(self.decides(tokens, evidence)) if leave is None else leave
        members = whole_tiles(tokens, evidence, self.window)
        order = descending(similar_windows(tokens.states, members), scale=1.0)
        chosen = take_at(members, order[..., : leave // (self.window**2 - 1)])
        middle = self.window**2 // 2
        evidence.notes.ranked = take_at(tokens.index, chosen[..., middle])
        return torch.cat([chosen[..., :middle], chosen[..., middle + 1 :]], -1).flatten(-2)

    def decides(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        """How many leave of each picture."""
        others = self.window**2 - 1
        similarity = similar_windows(tokens.states, whole_tiles(tokens, evidence, self.window))
        merge = at_least(similarity, self.threshold, scale=1.0).sum(-1)
        if self.number is not None:
            merge = merge.fill_(min(self.number, similarity.shape[-1]))
        if self.keep is not None:
            merge = merge.clamp(max=(len(tokens) - count(self.keep, evidence.total)) // others)
        return merge.clamp(min=0) * others


@dataclass(frozen=True)
class ToMiddle:
    """Each leaver goes whole to the middle of its window."""

    window: int = 3

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        members = whole_tiles(tokens, evidence, self.window)
        middle = members[..., self.window**2 // 2, None].expand_as(members).flatten(-2)
        goes = torch.full_like(tokens.index, -1).scatter(-1, members.flatten(-2), middle)
        staying = tokens.rest(leaving)
        return one_each(torch.searchsorted(staying, take_at(goes, leaving)), staying.shape[-1])


def whole_tiles(tokens: Tokens, evidence: Evidence, window: int) -> Tensor:
    """`tiles` of all patches of one picture; of one sample also of what is left of several."""
    cells, pictures = evidence.cells(tokens.index), evidence.counted.pictures
    if len(pictures) > 1 or len(tokens) < sum(pictures):
        if cells.dim() > 2:
            raise UserError("windows of patches are of whole pictures: put this reduction before all others")
        return tiles(cells, window)
    _, row, column = (cells // window).unbind(-1)
    many = math.isqrt(len(tokens)) // window
    number = torch.where((row < many) & (column < many), row * many + column, many**2)
    return number.argsort(dim=-1, stable=True)[..., : many**2 * window**2].unflatten(-1, (-1, window**2))


def tiles(cells: Tensor, window: int) -> Tensor:
    """cells (n, 3) of image, row and column -> (windows, window^2) rows of whole windows, all in raster order."""
    sides = cells[:, 1:].amax(0) + 1
    at, inside = cells[:, 1:] // window, cells[:, 1:] % window
    across = sides[1] // window + 1
    number = (cells[:, 0] * (sides[0] // window + 1) + at[:, 0]) * across + at[:, 1]
    order = (number * window**2 + inside[:, 0] * window + inside[:, 1]).argsort(stable=True)
    windows, size = number[order].unique_consecutive(return_counts=True)
    whole = torch.isin(number[order], windows[size == window**2])
    return order[whole].reshape(-1, window**2)


def similar_windows(states: Tensor, members: Tensor) -> Tensor:
    """(windows,) fp32: the mean cosine of two different members of each window, summed in float64."""
    size = members.shape[-1]
    pairs = cosines(take_at(states, members.flatten(-2)).unflatten(-2, (-1, size)))
    return ((pairs.sum((-2, -1)) - pairs.diagonal(dim1=-2, dim2=-1).sum(-1)) / (size * (size - 1))).float()
