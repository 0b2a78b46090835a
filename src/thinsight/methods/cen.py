"""Cen-Prune (2026), reconstructed: diversity among centred tokens, each weighted by how distinct it was before.

Visual tokens share a common direction, which makes all their cosines large. It is taken away, x_i - mean x, before
DivPrune (`MaxMin`) or CDPruner (`ConditionalDpp`) compares tokens; each token's weight is w_i = 1 - cos(x_i, mean x),
scaled to 0..1 (`scale_relevance`). DivPrune's distances D_ij become w_i w_j D_ij, CDPruner's relevance r_i becomes
w_i r_i. Our source has this in words only; the scaling and the place of the weight are ours.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import nearest
from thinsight.methods.cdpruner import greedy_map, scale_relevance
from thinsight.methods.divprune import dispersed
from thinsight.methods.prompt_relevance import Relevance
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.ties import cosines, double
from thinsight.reduction.tokens import Tokens

BASES = ("divprune", "cdpruner")


@dataclass(frozen=True)
class Centred:
    """The tokens stay that ``base`` chooses among centred and weighted ones.

    base       divprune | cdpruner
    centre     take the mean away; False: states as they are
    distinct   weigh by distinctness; False: all alike. With neither this is the base itself
    relevance  to the question, for cdpruner
    """

    base: str = "divprune"
    centre: bool = True
    distinct: bool = True
    relevance: Relevance = field(default_factory=lambda: Relevance(space="clip", aggregate="mean"))
    among = "visual"

    def __post_init__(self) -> None:
        if self.base not in BASES:
            raise nearest("base", self.base, BASES)

    @property
    def needs(self) -> frozenset[str]:
        """What the base's relevance needs."""
        return self.relevance.needs if self.base == "cdpruner" else frozenset()

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        states, keep = double(tokens.states), len(tokens) - leave
        mean = states.mean(-2, keepdim=True)
        similarity = cosines(states - mean if self.centre else states)
        weight = torch.ones_like(similarity[..., 0])
        if self.distinct:
            weight = scale_relevance(1 - cosines(states, mean)[..., 0])
        if self.base == "divprune":
            return tokens.rest(dispersed(weight[..., :, None] * (1 - similarity) * weight[..., None, :], keep))
        weight = weight * scale_relevance(double(self.relevance(tokens, evidence)))
        return tokens.rest(greedy_map(weight[..., :, None] * similarity * weight[..., None, :], keep))
