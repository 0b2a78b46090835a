"""VScan (arXiv:2505.22654): patches stay to which the class token attends in a shallow or the last block.

Of T tokens half are chosen window by window by the class token's attention in a shallow block, the others by that in
the last block used. Every other token is averaged into the nearest of the T behind the projector. In the middle of the
decoder a third of them stays, by the attention of the last prompt token.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.methods.class_attention import UsesClassScore
from thinsight.methods.mustdrop import key_tokens
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.schedules import Times
from thinsight.reduction.sources import take_at
from thinsight.reduction.ties import descending
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class LocalScan(UsesClassScore):
    """Notes the patches with the most attention in each window; none leaves.

    front    says how many T is
    share    of T that is chosen here, floor(T share / windows) in each window
    windows  how many, a square number: a window is an equal part of the grid
    cls      see `thinsight.methods.class_attention.ClassScore`
    """

    front: Times = field(default_factory=lambda: Times(0.1111, (3,)))
    share: float = 0.5
    windows: int = 16
    cls: str = "token"
    among = "visual"
    adaptive = True
    spares = True

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"local_share={self.share} is no fraction between 0 and 1")
        if isinstance(self.windows, bool) or not isinstance(self.windows, int) or self.windows < 1:
            raise UserError(f"windows={self.windows} is no number of windows from 1 on")
        if math.isqrt(self.windows) ** 2 != self.windows:
            raise UserError(f"windows={self.windows} do not tile a square picture: take 1, 4, 9, 16, ...")

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        across, side = math.isqrt(self.windows), math.isqrt(evidence.total)
        _, row, column = evidence.cells(tokens.index).unbind(-1)
        member = row * across // side * across + column * across // side
        each = int(_left(self.front, evidence) * self.share) // self.windows
        order = descending(self.class_score(evidence, tokens.index))
        ranked = torch.nn.functional.one_hot(take_at(member, order), self.windows)
        late = (ranked.cumsum(-2) * ranked).sum(-1) > each
        first = take_at(order, late.to(torch.uint8).argsort(dim=-1, stable=True))
        evidence.notes.ranked = take_at(tokens.index, first[..., : each * self.windows])
        return first[..., :0]


@dataclass(frozen=True)
class GlobalScan(UsesClassScore):
    """Notes T patches as key: those of `LocalScan`, and of the others those with the most attention; none leaves.

    front  says how many T is;  cls  see `thinsight.methods.class_attention.ClassScore`
    """

    front: Times = field(default_factory=lambda: Times(0.1111, (3,)))
    cls: str = "token"
    among = "visual"
    adaptive = True
    spares = True

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        order = descending(self.class_score(evidence, tokens.index))
        local = (take_at(tokens.index, order)[..., :, None] == evidence.notes.ranked[..., None, :]).any(-1)
        first = take_at(order, (~local).to(torch.uint8).argsort(dim=-1, stable=True))
        chosen = take_at(tokens.index, first[..., : _left(self.front, evidence)])
        evidence.notes.key = evidence.place(chosen)
        return order[..., :0]


def _left(front: Times, evidence: Evidence) -> int:
    return front(evidence.total, 0, 1, evidence.total)


@dataclass(frozen=True)
class NotKey:
    """The tokens leave that no stage in the tower noted as key."""

    among = "visual"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        key = (evidence.place(tokens.index)[..., :, None] == key_tokens(evidence)[..., None, :]).any(-1)
        return (~key).to(torch.uint8).argsort(dim=-1, stable=True)[..., len(tokens) - leave :]
