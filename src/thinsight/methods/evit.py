"""EViT (arXiv:2202.07800): inattentive patches are fused into one, at the same keep rate in several encoder blocks.

With a_i the attention that the class token pays to patch i, the ceil(rate * n) patches with the largest a_i stay
(`thinsight.methods.class_attention.ClassAttention`) and the others become one token, sum of a_i x_i.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.methods.class_attention import UsesClassScore
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.schedules import Geometric
from thinsight.reduction.sources import take_at
from thinsight.reduction.stages import Routes
from thinsight.reduction.ties import largest
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class EvitRate(Geometric):
    """The same ratio at every stage, solved for ``keep`` (the last fused token included) or published.

    rate  published ratio, whatever ``keep`` says: of those present that fraction stays, rounded up, and a fused one
          joins them
    """

    keep: int | float = 0.3333
    rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise UserError(f"rate={self.rate} is no fraction between 0 and 1")

    @property
    def inclusive(self) -> bool:
        """Whether the fused token is one of those that stay."""
        return self.rate is None

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        if self.rate is None:
            return super().__call__(present, stage, stages, total)
        return math.ceil(self.rate * present)


@dataclass(frozen=True)
class InattentiveToken(UsesClassScore):
    """All leavers make one new token, weighted by what the class token pays to each (not scaled to sum to one). It
    stands where the most attended leaver stood.

    cls   token | received, see `ClassScore`
    fuse  False: nothing is made of them
    """

    cls: str = "token"
    fuse: bool = True

    def adds(self, leave: int, keep: int) -> int:
        """One token, if any leaves; also where none stays, so that at least one is left."""
        return int(self.fuse and leave > 0)

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Routes:
        staying = len(tokens) - leaving.shape[-1]
        stay = torch.zeros(*leaving.shape, staying, dtype=torch.float32, device=leaving.device)
        if not self.fuse:
            return Routes(stay)
        weights = self.class_score.weights(evidence, take_at(tokens.index, leaving))
        return Routes(stay, weights[..., None], largest(weights)[..., None])
