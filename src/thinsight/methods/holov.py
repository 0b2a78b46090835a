"""HoloV (arXiv:2510.02912): crops of the picture share the budget by their mean score, each keeps its best tokens.

With A the class token's attention to a patch and V the variance of the patch's cosines within its crop, the score is
H = A + gamma V, gamma = mean|A| / mean|V|. A crop's quota is the budget times its share of (mean H)^tau, rounded down;
what exceeds the crop's size is handed on. The released code differs (conf/method/holov.yaml, ``official``).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.methods.class_attention import UsesClassScore
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import take_at
from thinsight.reduction.ties import cosines, descending, double
from thinsight.reduction.tokens import Tokens

CROPS = ("squares", "runs")
WITHIN = ("score", "attention")


@dataclass(frozen=True)
class CropQuota(UsesClassScore):
    """Each crop keeps as many tokens as its mean score earns, those with the largest scores.

    crops    how many
    shape    squares: of the grid, a whole number of them in a row; runs: of equal length in raster order
    weight   of gamma V: 1 is the formula's
    tau      exponent of a crop's mean score
    within   score: a crop keeps those with the largest H; attention: with the largest A
    hand_on  what a crop cannot hold goes to the others in proportion; False: to the best tokens left anywhere
    cls      see `thinsight.methods.class_attention.ClassScore`
    """

    crops: int = 16
    shape: str = "squares"
    weight: float = 1.0
    tau: float = 1.0
    within: str = "score"
    hand_on: bool = True
    cls: str = "token"
    among = "visual"

    def __post_init__(self) -> None:
        if self.shape not in CROPS:
            raise nearest("shape of crops", self.shape, CROPS)
        if self.within not in WITHIN:
            raise nearest("choice within a crop", self.within, WITHIN)
        if isinstance(self.crops, bool) or not isinstance(self.crops, int) or self.crops < 1:
            raise UserError(f"crops={self.crops} is no number of crops from 1 on")
        if self.shape == "squares" and math.isqrt(self.crops) ** 2 != self.crops:
            raise UserError(f"crops={self.crops} cannot be squares of a picture: take 1, 4, 9, 16, ... or shape=runs")

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        keep = len(tokens) - leave
        attention = double(self.class_score.weights(evidence, tokens.index))
        member = self.members(tokens, evidence)
        inside = (member[..., :, None] == member[..., None, :]).to(attention)
        variance = _variance(cosines(tokens.states), inside)
        gamma = attention.mean(-1, keepdim=True) / variance.mean(-1, keepdim=True).clamp(min=1e-12)
        score = attention + self.weight * gamma * variance
        one = torch.nn.functional.one_hot(member, self.crops).to(score)  # (..., N, crops)
        sizes = one.sum(-2)
        mean = (score[..., None] * one).sum(-2) / sizes.clamp(min=1)
        quota = quotas(mean.clamp(min=0) ** self.tau * (sizes > 0), sizes, keep, self.hand_on)
        order = descending(score if self.within == "score" else attention)
        ranked = take_at(one, order)
        place = (ranked.cumsum(-2) * ranked).sum(-1)  # of each token in its crop, from 1
        earned = place <= (ranked * quota[..., None, :]).sum(-1)
        first = take_at(order, (~earned).to(torch.uint8).argsort(dim=-1, stable=True))  # then the best of the others
        return first[..., keep:]

    def members(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        """(N,) int64: the crop of each token, by its place in the picture."""
        place, total = evidence.place(tokens.index), evidence.total
        if self.shape == "runs":
            return place * self.crops // total
        across = math.isqrt(self.crops)
        _, row, column = evidence.cells(tokens.index).unbind(-1)
        side = math.isqrt(total)
        return row * across // side * across + column * across // side


def quotas(weight: Tensor, sizes: Tensor, keep: int, hand_on: bool = True) -> Tensor:
    """weight, sizes (..., crops) -> (..., crops): how many each keeps, no more than its size; in all ``keep`` at most.

    floor(keep w / sum w); with ``hand_on`` what exceeds a size is divided again among crops with room, as often as
    there are crops, since each time another one may be full.
    """
    crops = weight.shape[-1]
    quota = torch.zeros_like(weight)
    for _ in range(crops if hand_on else 1):
        open_ = weight * (quota < sizes)
        left = keep - quota.sum(-1, keepdim=True)
        share = open_ / open_.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
        quota = torch.minimum(quota + (left * share + 1e-9).floor(), sizes)
    return quota


def _variance(similarity: Tensor, inside: Tensor) -> Tensor:
    """(..., N): of each row's cosines (..., N, N) over the columns that are ``inside`` its crop."""
    count = inside.sum(-1)
    mean = (similarity * inside).sum(-1) / count
    return ((similarity - mean[..., None]) ** 2 * inside).sum(-1) / count
