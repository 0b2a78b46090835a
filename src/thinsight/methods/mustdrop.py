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

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        count = math.ceil(self.share * len(tokens))
        order = descending(self.class_score(evidence, tokens.index))
        evidence.notes.key = evidence.place(tokens.index[order[:count]])
        return torch.empty(0, dtype=torch.int64)


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
    needs = frozenset({"attention"})
    attention_rows = "question"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        paid = evidence.attention(evidence.text, tokens.index).cpu()
        whole = paid.sum(0)
        key = torch.isin(tokens.index, key_columns(evidence))
        if leave is None:
            wanted = at_least(whole, self.total * whole.sum()) | at_least(paid.amax(0), self.single)
            return (~wanted & ~key).nonzero().squeeze(1)
        order = descending(whole)
        order = order[(~key[order]).int().argsort(stable=True)]
        return order[len(order) - leave :]


def key_columns(evidence: Evidence) -> Tensor:
    """(n,) index of the tokens that `KeyTokens` noted in the pictures of this prompt."""
    if evidence.notes.images is None:
        raise UserError(
            "key tokens are known by their picture, and here pictures and image tokens do not match in number"
        )
    columns = [torch.empty(0, dtype=torch.int64)]
    for number, notes in enumerate(evidence.notes.images):
        columns.append((evidence.image == number).nonzero().squeeze(1)[notes.key])
    return torch.cat(columns)


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
        members = tiles(evidence.cells(tokens.index), self.window)
        similarity = similar_windows(tokens.states, members)
        merge = int(at_least(similarity, self.threshold, scale=1.0).sum()) if self.number is None else self.number
        if self.keep is not None:
            merge = min(merge, (len(tokens) - count(self.keep, evidence.total)) // (self.window**2 - 1))
        chosen = members[descending(similarity, scale=1.0)[: max(merge, 0)]]
        middle = self.window**2 // 2
        evidence.notes.ranked = tokens.index[chosen[:, middle]]
        others = torch.arange(self.window**2) != middle
        return chosen[:, others].flatten()


@dataclass(frozen=True)
class ToMiddle:
    """Each leaver goes whole to the middle of its window."""

    window: int = 3

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        members = tiles(evidence.cells(tokens.index), self.window)
        middle = torch.full((len(tokens),), -1)
        middle[members] = members[:, self.window**2 // 2, None]
        staying = tokens.rest(leaving)
        weights = torch.zeros(len(leaving), len(staying), dtype=torch.float32)
        weights[torch.arange(len(leaving)), torch.searchsorted(staying, middle[leaving])] = 1.0
        return weights


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
    """(windows,) fp32 on the CPU: the mean cosine of two different members of each window, summed in float64."""
    pairs, size = cosines(states[members.to(states.device)]), members.shape[1]
    return ((pairs.sum((1, 2)) - pairs.diagonal(dim1=1, dim2=2).sum(1)) / (size * (size - 1))).float().cpu()
