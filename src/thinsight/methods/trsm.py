"""TRSM (arXiv:2410.07278 v1), reconstructed: the prompt's tokens retrieve the visual tokens most similar to them.

The abstract publishes no formula. Here the score of visual token i is max over queries q of cos(q, v_i), and the union
of what each query retrieves is trimmed to the budget.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.methods.controls import Grid
from thinsight.methods.prompt_relevance import Relevance
from thinsight.reduction.evidence import Evidence
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
        if embedded.wordless:
            return Grid()(tokens, evidence, leave)
        products = embedded.queries @ embedded.tokens.T
        score = self.relevance.aggregated(products)
        each = keep if self.each is None else self.each
        each = math.ceil(each * keep) if isinstance(each, float) else each
        retrieved = torch.zeros(len(tokens), dtype=torch.bool, device=score.device)
        scale = 1.0 if self.relevance.unit else None
        retrieved[descending(products, scale)[:, :each].flatten()] = True
        order = descending(score, scale)
        order = order[(~retrieved[order]).int().argsort(stable=True)]  # all that was retrieved comes first
        return order[keep:].cpu()
