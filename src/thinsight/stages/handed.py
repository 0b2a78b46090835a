"""Orders in which released codes hand tokens on, where that is not by place in the picture."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import nearest
from thinsight.evidence import Evidence
from thinsight.stages.order import Appended, Order, Raster
from thinsight.tokens import Tokens

ORDERS = ("raster", "official")


@dataclass(frozen=True)
class Handed:
    """By place in the picture, or as the released code does it.

    order     raster | official
    official  what the latter means
    """

    order: str = "raster"
    official: Order = field(default_factory=Appended)

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise nearest("order", self.order, ORDERS)

    @property
    def needs(self) -> frozenset[str]:
        """What the chosen one needs."""
        return frozenset(getattr(self.official, "needs", ()) if self.order == "official" else ())

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        return (Raster() if self.order == "raster" else self.official)(tokens, evidence)


@dataclass(frozen=True)
class Ranked:
    """First the tokens that an earlier stage of this reduction noted by index as ``ranked``, in that order; then the
    others as they are."""

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        rank = {index: rank for rank, index in enumerate(evidence.notes["ranked"].tolist())}
        return torch.tensor([rank.get(index, len(rank)) for index in tokens.index.tolist()]).argsort(stable=True)


@dataclass(frozen=True)
class ClassFirst:
    """First a class token that is handed on as if it were a patch, then the others as they are (VisionZip)."""

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        first = ~tokens.visual | torch.isin(tokens.named, evidence.cls)
        return (~first).int().argsort(stable=True)
