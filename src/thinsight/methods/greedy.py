"""Greedy selection by relevance, coverage and diversity: TOPS (arXiv:2606.27161) and SCOPE (arXiv:2510.24214).

With S the tokens chosen so far and s_uv the cosine of u and v, a token v that is not in S has

    relevance r(v)   attention paid to it
    coverage  c(v)   sum_u max(0, s_uv - max_{w in S} s_uw): what S does not represent yet and v does
    diversity d(v)   1 - max_{w in S} s_vw

TOPS adds them up, SCOPE multiplies the first two. With one weight alone the same loop is FasterVLM's ranking (r) or
DivPrune's dispersion (d, started at the token that is farthest from its nearest neighbour).
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.methods.class_attention import ClassScore
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.ties import above, cosines, double, first_largest
from thinsight.reduction.tokens import Tokens

COMBINATIONS = ("sum", "product")
STARTS = ("relevant", "isolated")


class Score(Protocol):
    """``score(evidence, index)`` -> (n,) fp32, larger for more relevant tokens; ``needs`` as of a stage."""

    needs: frozenset[str]

    def __call__(self, evidence: Evidence, index: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class LookingText:
    """Mean attention of those text tokens behind the picture that look at it: whose attention to all visual tokens
    together is at least the mean over these rows."""

    needs = frozenset({"attention", "text"})

    def __call__(self, evidence: Evidence, index: Tensor) -> Tensor:
        paid = evidence.attention(evidence.behind, index)
        looks = paid.sum(-1, keepdim=True)
        raters = (looks >= looks.mean(-2, keepdim=True)).to(paid)
        return (raters * paid).sum(-2) / raters.sum(-2)


@dataclass(frozen=True)
class Greedy:
    """Tokens stay that are chosen one after the other, each the best by relevance, coverage and diversity.

    score      relevance r of each token
    relevance, coverage, diversity  weights; for a product, exponents of relevance and coverage
    combine    sum: of the three, each scaled to 0..1 over the tokens not chosen yet (TOPS); product: r^relevance times
               c^coverage, as they are (SCOPE), which begins with nothing covered and has no ``start``
    start      relevant: the first is the most relevant one; isolated: the one farthest from its nearest neighbour
    """

    score: Score = field(default_factory=ClassScore)
    relevance: float = 1.0
    coverage: float = 1.0
    diversity: float = 1.0
    combine: str = "sum"
    start: str = "relevant"
    among = "visual"

    def __post_init__(self) -> None:
        if self.combine not in COMBINATIONS:
            raise nearest("combination", self.combine, COMBINATIONS)
        if self.start not in STARTS:
            raise nearest("start", self.start, STARTS)
        weights = {"relevance": self.relevance, "coverage": self.coverage, "diversity": self.diversity}
        for name, weight in weights.items():
            if not weight >= 0:
                raise UserError(f"{name}={weight} is no weight from 0 on")
        if not any(weights.values()):
            raise UserError("relevance, coverage and diversity are all 0: nothing is left to choose by")

    @property
    def attention_rows(self) -> str:
        """Rows of attention that the relevance reads."""
        return "question" if isinstance(self.score, LookingText) else "one"

    @property
    def needs(self) -> frozenset[str]:
        """What the relevance needs."""
        return self.score.needs

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        relevance = double(self.score(evidence, tokens.index))
        return tokens.rest(self.chosen(relevance, cosines(tokens.states), len(tokens) - leave))

    def chosen(self, relevance: Tensor, similarity: Tensor, keep: int) -> Tensor:
        """relevance (..., N), similarity (..., N, N), both float64 -> (..., keep) int64, in the order of choice."""
        lead, count = relevance.shape[:-1], relevance.shape[-1]
        relevance, rows = relevance.reshape(-1, count), similarity.reshape(-1, count, count)
        best = torch.zeros_like(relevance)  # the largest similarity to what is chosen
        taken = torch.zeros_like(relevance, dtype=torch.bool)
        order: list[Tensor] = []
        for step in range(keep):
            gains = self._gains(relevance, rows, best, taken, step)
            one = first_largest(gains.masked_fill(taken, -torch.inf), gains.amax(-1, keepdim=True))
            order.append(one)
            taken.scatter_(-1, one, True)
            near = rows.gather(-2, one[..., None].expand(-1, 1, count))[:, 0]
            best = near if step == 0 and self.combine == "sum" else torch.maximum(best, near)
        chosen = torch.cat(order, -1) if order else taken.new_zeros(len(taken), 0, dtype=torch.int64)
        return chosen.reshape(*lead, keep)

    def _gains(self, relevance: Tensor, rows: Tensor, best: Tensor, taken: Tensor, step: int) -> Tensor:
        """(samples, N) what each token would add, from 0 on."""
        if self.combine == "sum" and step == 0:
            if self.start == "relevant":
                return _scaled(relevance, taken)
            apart = 1 - rows
            return apart.diagonal_scatter(torch.full_like(relevance, torch.inf), dim1=-2, dim2=-1).amin(-1).clamp(min=0)
        covered = (rows - best[..., None, :]).clamp_(min=0).sum(-1) if self.coverage else None
        if self.combine == "product":
            gains = relevance**self.relevance
            return gains if covered is None else gains * covered**self.coverage
        parts = [(self.relevance, relevance), (self.coverage, covered), (self.diversity, 1 - best)]
        return sum(weight * _scaled(part, taken) for weight, part in parts if weight)


def _scaled(values: Tensor, taken: Tensor) -> Tensor:
    """(..., N) to 0..1 over those not taken, where they differ; all 0 where they do not."""
    low = values.masked_fill(taken, torch.inf).amin(-1, keepdim=True)
    high = values.masked_fill(taken, -torch.inf).amax(-1, keepdim=True)
    differ = above(high, low)
    return torch.where(differ, (values - low) / torch.where(differ, high - low, 1.0), 0.0).clamp(0, 1)
