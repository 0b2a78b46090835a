"""MMTok (arXiv:2508.18264): the visual tokens stay that cover the question's tokens and the picture's at once.

With A the softmax over visual tokens of the cosines of each question token and them (temperature tau_t), and B the same
of each visual token and all of them (tau_v), the set S of the tokens that stay maximises greedily

    (1 - alpha) mean_t max_{v in S} A_tv + alpha mean_u max_{v in S} B_uv
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.methods.prompt_relevance import Relevance
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import take_at
from thinsight.reduction.ties import cosines, double, first_largest
from thinsight.reduction.tokens import Tokens

VISUAL = ("features", "projected")


@dataclass(frozen=True)
class Coverage:
    """The tokens stay that cover the question and the picture best, chosen greedily.

    relevance  makes the question's rows of cosines
    text_temperature, visual_temperature  of the softmax over visual tokens
    alpha      weight of the picture's coverage, from 0 to 1
    visual     features: the picture's cosines are taken in front of the projector; projected: behind it
    """

    relevance: Relevance = field(default_factory=Relevance)
    text_temperature: float = 0.02
    visual_temperature: float = 0.2
    alpha: float = 0.5
    visual: str = "features"
    among = "visual"

    def __post_init__(self) -> None:
        if self.visual not in VISUAL:
            raise nearest("place of the picture's cosines", self.visual, VISUAL)
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha={self.alpha} is no weight between 0 and 1")
        for name in ("text_temperature", "visual_temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} is no temperature above 0")

    @property
    def needs(self) -> frozenset[str]:
        """What the relevance needs, and the features."""
        return self.relevance.needs | ({"features"} if self.visual == "features" else frozenset())

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        embedded = self.relevance.embed(tokens, evidence)
        text = double(self.relevance.products(embedded))
        states = tokens.states
        if self.visual == "features":
            states = take_at(evidence.get("features"), evidence.place(tokens.index))
        text = (text / self.text_temperature).softmax(-1)
        weight = torch.ones_like(text[..., 0]) if embedded.there is None else double(embedded.there)
        weight = (1 - self.alpha) * weight / weight.sum(-1, keepdim=True)
        picture = (cosines(states) / self.visual_temperature).softmax(-1)
        share = torch.full_like(picture[..., 0], self.alpha / len(tokens))
        covers = torch.cat([text * weight[..., None], picture * share[..., None]], -2)
        return tokens.rest(covering(covers, len(tokens) - leave))


def covering(covers: Tensor, keep: int) -> Tensor:
    """covers (..., targets, N) from 0 on -> (..., keep) int64: the columns, one after the other, that add most to the
    sum over targets of the largest entry among the chosen ones."""
    lead, count = covers.shape[:-2], covers.shape[-1]
    every = covers.reshape(-1, covers.shape[-2], count)
    best = torch.zeros_like(every[..., :1])
    taken = torch.zeros(len(every), count, dtype=torch.bool, device=every.device)
    order: list[Tensor] = []
    for _ in range(keep):
        gains = (every - best).clamp_(min=0).sum(-2)
        one = first_largest(gains.masked_fill(taken, -torch.inf), gains.amax(-1, keepdim=True))
        order.append(one)
        taken.scatter_(-1, one, True)
        best = torch.maximum(best, every.gather(-1, one[:, None].expand(-1, every.shape[-2], 1)))
    chosen = torch.cat(order, -1) if order else torch.zeros(len(every), 0, dtype=torch.int64, device=every.device)
    return chosen.reshape(*lead, keep)
