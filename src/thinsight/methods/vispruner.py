"""VisPruner (arXiv:2412.01818 v2): important tokens stay, and of the rest those without duplicates.

Of ``keep`` tokens floor(important * keep) are those with the highest class-token attention; the others are what is left
of the rest when the most similar ones have left in rounds.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.methods.class_attention import UsesClassScore
from thinsight.reduction.attention import at_columns
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import take_at
from thinsight.reduction.ties import cosines, descending
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class Dissimilar(UsesClassScore):
    """The tokens with the highest class-token attention stay, and of the others those without duplicates.

    The floor(``important`` * keep) highest stay. The others start in descending order of score; until no more are left
    than may stay, those in even places are compared with those in odd ones (cosine of their states), and the ``step``
    of them that are most similar to one there leave.

    important  share of those that stay;  step  how many leave in a round, at most;  cls  see `ClassScore`
    """

    important: float = 0.5
    step: int = 8
    cls: str = "token"
    among = "visual"

    def __post_init__(self) -> None:
        if not 0 <= self.important <= 1:
            raise UserError(f"important_ratio={self.important} is no fraction between 0 and 1")
        if isinstance(self.step, bool) or not isinstance(self.step, int) or self.step < 1:
            raise UserError(f"step={self.step} is no number of tokens from 1 on")

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        return tokens.rest(torch.cat(self.parts(tokens, evidence, len(tokens) - leave), -1))

    def parts(self, tokens: Tokens, evidence: Evidence, keep: int) -> tuple[Tensor, Tensor]:
        """Rows of the important tokens, highest score first, and of the diverse ones, as the rounds left them."""
        order = descending(self.class_score(evidence, tokens.index))
        count = math.floor(keep * self.important)
        first, others = order[..., :count], order[..., count:]
        return first, take_at(others, distinct(take_at(tokens.states, others), keep - count, self.step))


def distinct(states: Tensor, keep: int, step: int) -> Tensor:
    """(..., keep) rows of ``states`` (..., n, width) that are left when duplicates leave, ``step`` at a time at most.

    Survivors of the even places go on in descending order of similarity, then those of the odd places; the places of
    the next round are counted in that order. So every pair of neighbours in every round is a decision, thousands for a
    picture of 576 tokens; the rule of `thinsight.reduction.ties` would settle dozens of them by place, where the
    released code goes by the last digits. Here these are float64's.
    """
    similarity = cosines(states)
    left = torch.arange(states.shape[-2], device=states.device).expand(states.shape[:-1])
    while left.shape[-1] > keep:
        even, odd = left[..., ::2], left[..., 1::2]
        leave = min(step, left.shape[-1] - keep, even.shape[-1])
        if odd.shape[-1]:
            most = at_columns(take_at(similarity, even), odd).amax(-1)
            even = take_at(even, most.argsort(dim=-1, descending=True, stable=True))
        left = torch.cat([even[..., leave:], odd], -1)
    return left
