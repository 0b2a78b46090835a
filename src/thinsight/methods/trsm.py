"""TRSM (arXiv:2410.07278 v1), reconstructed: the prompt's tokens retrieve the visual tokens most similar to them.

The abstract publishes no formula. Here the score of visual token i is max over queries q of cos(q, v_i), and the union
of what each query retrieves is trimmed to the budget.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.methods.prompt_relevance import Relevance, grid_if_wordless
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import take_at
from thinsight.reduction.ties import descending
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class Retrieve:
    """The prompt's tokens are queries that retrieve the visual tokens nearest to them.

    The union of what they retrieve is trimmed to the budget by relevance, or filled up by it.

    each  tokens that every query retrieves: a count, or a fraction of the budget (float); None: the whole budget, which
          under aggregate=max is the plain top-k

    Where the question has no word an even grid stays (`thinsight.methods.controls.Grid`).
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
        embedded = self.relevance.embed(tokens, evidence)
        products = self.relevance.products(embedded)
        score = self.relevance.aggregated(products, embedded)
        each = keep if self.each is None else self.each
        each = math.ceil(each * keep) if isinstance(each, float) else each
        scale = 1.0 if self.relevance.unit else None
        nearest = descending(products, scale)[..., :each].flatten(-2)
        retrieved = torch.zeros(score.shape, dtype=torch.bool, device=score.device).scatter_(-1, nearest, True)
        order = descending(score, scale)
        late = ~take_at(retrieved, order)
        order = take_at(order, late.to(torch.uint8).argsort(dim=-1, stable=True))  # all that was retrieved comes first
        return grid_if_wordless(order[..., keep:], embedded, tokens, evidence)
