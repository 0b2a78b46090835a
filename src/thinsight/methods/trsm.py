"""TRSM: text-related tokens retrieved by similarity (a reconstruction)."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.methods.prompt_relevance import Relevance
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.stages import ranked
from thinsight.reduction.tokens import Tokens


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
