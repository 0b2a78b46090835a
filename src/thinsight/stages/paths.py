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

    direct    gamma; 1 in the encoder, which has no text
    quantile  epsilon
    scope     row | matrix
    sums      the indirect term is the sum over text tokens, not the mean (released code)
    """

    direct: float = 1.0
    quantile: float = 0.998
    scope: str = "row"
    logits: bool = False
    sums: bool = False
    needs = frozenset({"attention"})

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise nearest("scope of the quantile", self.scope, SCOPES)
        if not 0 <= self.quantile <= 1:
            raise UserError(f"quantile={self.quantile} is no fraction between 0 and 1")

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
        if self.scope == "row":
            least = strengths.quantile(self.quantile, dim=1, keepdim=True)
        else:
            least = strengths.flatten().quantile(self.quantile)
        kept = torch.where(strengths >= least, strengths, 0.0)
        return kept / kept.sum(1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
