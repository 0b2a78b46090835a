"""EViT's fused token (arXiv:2202.07800): inattentive tokens go on as one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.evidence import Evidence
from thinsight.stages.cls import Interested
from thinsight.stages.correlate import Routes
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class Fused(Interested):
    """All leavers make one new token, weighted by what the class token pays to each (not scaled to sum to one). It
    stands where the most attended leaver stood.

    cls   token | received, see `Interest`
    fuse  False: nothing is made of them
    """

    cls: str = "token"
    fuse: bool = True

    def adds(self, leave: int, keep: int) -> int:
        """One token, if any leaves; also where none stays, so that at least one is left."""
        return int(self.fuse and leave > 0)

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Routes:
        stay = torch.zeros(len(leaving), len(tokens) - len(leaving))
        if not self.fuse:
            return Routes(stay)
        weights = self.interest.weights(evidence, tokens.index[leaving])
        return Routes(stay, weights[:, None], weights.argmax()[None])
