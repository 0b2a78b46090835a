"""EViT: inattentive tokens fused into one, at a keep rate applied at several encoder layers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.methods.class_attention import UsesClassScore
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.schedules import Geometric, Rate, check_keep
from thinsight.reduction.stages import Routes
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class EvitRate:
    """EViT's schedule (arXiv:2202.07800): the same ratio at every stage.

    keep  what is left after the last stage, the last fused token included: the ratio is solved for it
    rate  published ratio, whatever ``keep`` says: of those present that fraction stays, rounded up, and a fused one
          joins them
    """

    keep: int | float = 0.3333
    rate: float | None = None

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.rate is not None:
            Rate(self.rate)

    @property
    def inclusive(self) -> bool:
        """Whether the fused token is one of those that stay."""
        return self.rate is None

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        schedule = Geometric(self.keep) if self.rate is None else Rate(self.rate)
        return schedule(present, stage, stages, total)


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
        stay = torch.zeros(len(leaving), len(tokens) - len(leaving))
        if not self.fuse:
            return Routes(stay)
        weights = self.interest.weights(evidence, tokens.index[leaving])
        return Routes(stay, weights[:, None], weights.argmax()[None])
