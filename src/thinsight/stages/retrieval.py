"""What stays is what the prompt asks for: the most relevant tokens, as many as told or as stand out."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.evidence import Evidence
from thinsight.stages.relevance import Relevance
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class Retrieve:
    """TRSM's retrieval, reconstructed (arXiv:2410.07278 v1 publishes no formula): the prompt's tokens are queries and
    retrieve their own nearest visual tokens; the union is trimmed to the budget by relevance, or filled up by it.

    each  tokens that every query retrieves: a count, or a fraction of the budget (float); None: the whole budget, which
          under aggregate=max is the plain top-k
    """

    relevance: Relevance = field(default_factory=Relevance)
    each: int | float | None = None
    among = "visual"

    def __post_init__(self) -> None:
        if self.each is not None and self.each <= 0:
            raise UserError(f"each={self.each}: a query retrieves at least one token")

    @property
    def needs(self) -> frozenset[str]:
        """What the relevance needs."""
        return self.relevance.needs

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        keep = len(tokens) - leave
        sides = self.relevance.sides(tokens, evidence)
        products = sides.queries @ sides.tokens.T
        score = self.relevance.over(products)
        each = keep if self.each is None else self.each
        each = math.ceil(each * keep) if isinstance(each, float) else each
        found = torch.zeros(len(tokens), dtype=torch.bool, device=score.device)
        found[ranked(products)[:, :each].flatten()] = True
        score = torch.where(found, score - score.amin(), score - score.amax() - 1)  # all that was found comes first
        return ranked(score)[keep:].cpu()


@dataclass(frozen=True)
class StandOut:
    """TRIM (arXiv:2409.10994): patches by the softmax over patches of their products with the text.

    As many stay as the schedule says, or, where it leaves that open, those above Q3 + ``reach`` (Q3 - Q1). ``down``:
    their number goes through a ratio and is rounded down again, as in the released code; now and then one is lost.
    """

    relevance: Relevance = field(default_factory=lambda: Relevance(space="clip", aggregate="mean", unit=False))
    reach: float = 1.5
    down: bool = False
    among = "visual"

    @property
    def needs(self) -> frozenset[str]:
        """What the relevance needs."""
        return self.relevance.needs

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        score = self.relevance(tokens, evidence).softmax(0)
        keep = outliers(score, self.reach) if leave is None else len(tokens) - leave
        if leave is None and self.down:
            keep = int(len(tokens) * (keep / len(tokens)))
        return ranked(score)[keep:].cpu()


def outliers(score: Tensor, reach: float = 1.5) -> int:
    """How many entries of ``score`` (any shape) lie above Q3 + ``reach`` (Q3 - Q1), quartiles interpolated linearly."""
    score = score.flatten().double()
    first, third = score.quantile(0.25), score.quantile(0.75)
    return int((score > third + reach * (third - first)).sum())


def ranked(score: Tensor) -> Tensor:
    """Places along the last axis, the largest entry first; ties by place."""
    return score.argsort(dim=-1, descending=True, stable=True)
