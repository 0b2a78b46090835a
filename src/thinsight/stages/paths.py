"""FiCoCo's correlation (arXiv:2411.17686): along the strongest attention of each leaver."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.evidence import Evidence
from thinsight.tokens import Tokens

SCOPES = ("row", "matrix")


@dataclass(frozen=True)
class StrongestPaths:
    """Each leaver is divided among the stayers that it is most attached to.

        C_ij = direct * A_ij + (1 - direct) * 1/M sum_k A_ki A_kj                   (equation 4)

    over the M text tokens k; an edge exists where C_ij is at least the ``quantile`` of row i (token-adaptive K), or of
    the whole matrix; the edges of a row are scaled to sum to one (equation 2). Under a causal mask of A_ij and A_ji one
    is zero, so their sum stands for A_ij there. ``logits``: C from logits before the mask, by a softmax over stayers.

    direct      gamma; 1 in the encoder, which has no text
    quantile    epsilon
    scope       row | matrix
    sums        the indirect term is the sum over text tokens, not the mean (released code)
    count       so many edges for each leaver in place of the quantile (tables 5 and 6: K); 0: pruning; None: epsilon
    even        all edges of a leaver weigh the same (tables 5 and 6: average compression)
    convergent  all leavers go to one stayer, that which they are most attached to together (tables 5 and 6)
    """

    direct: float = 1.0
    quantile: float = 0.998
    scope: str = "row"
    logits: bool = False
    sums: bool = False
    count: int | None = None
    even: bool = False
    convergent: bool = False
    needs = frozenset({"attention"})

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise nearest("scope of the quantile", self.scope, SCOPES)
        if not 0 <= self.quantile <= 1:
            raise UserError(f"quantile={self.quantile} is no fraction between 0 and 1")
        if self.count is not None and (type(self.count) is not int or self.count < 0):
            raise UserError(f"edges={self.count} is no number of edges: 0, 1, 2, ... for each leaver, or null")
        if self.convergent and self.count is not None:
            raise UserError("convergent sends every leaver along one edge: leave edges at null")

    @property
    def lossy(self) -> bool:
        """Whether a leaver may be left without an edge."""
        return not self.convergent and (self.count == 0 or (self.count is None and self.scope == "matrix"))

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        return self.edges(self.strengths(tokens.index[leaving], tokens.index[tokens.rest(leaving)], evidence))

    def strengths(self, leave: Tensor, stay: Tensor, evidence: Evidence) -> Tensor:
        """C (leaving, staying) fp32 of the tokens with these indices."""
        text = evidence.question if self.direct < 1 else torch.empty(0, dtype=torch.int64)
        count = 1 if self.sums else max(len(text), 1)
        if self.logits:
            found = evidence.logits(leave, stay)
            if len(text):
                through = evidence.logits(leave, text) @ evidence.logits(text, stay) / count
                found = self.direct * found + (1 - self.direct) * through
            return found.softmax(-1)
        found = evidence.attention(leave, stay)
        if evidence.look().causal:
            found = found + evidence.attention(stay, leave).T
        if len(text):
            through = evidence.attention(text, leave).T @ evidence.attention(text, stay) / count
            found = self.direct * found + (1 - self.direct) * through
        return found

    def edges(self, strengths: Tensor) -> Tensor:
        """Weights of the same shape: the strongest entries, each row scaled to sum to one (or to zero, if none is)."""
        if strengths.shape[1] == 0:
            return strengths  # nobody stays who could take anything in
        if self.convergent:
            return torch.zeros_like(strengths).index_fill_(1, strengths.sum(0).argmax(), 1.0)
        weights = torch.ones_like(strengths) if self.even else strengths
        if self.count is not None:
            best = strengths.topk(min(self.count, strengths.shape[1]), dim=1).indices
            return _rows_to_one(torch.zeros_like(strengths).scatter_(1, best, weights.gather(1, best)))
        if self.scope == "row":
            least = strengths.quantile(self.quantile, dim=1, keepdim=True)
        else:
            least = strengths.flatten().quantile(self.quantile)
        return _rows_to_one(torch.where(strengths >= least, weights, 0.0))


def _rows_to_one(weights: Tensor) -> Tensor:
    return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
