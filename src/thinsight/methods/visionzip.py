"""VisionZip (arXiv:2412.04467): dominant tokens by class attention, the rest merged into contextual ones.

Dominant tokens are chosen by `thinsight.methods.class_attention.ClassAttention`. Of the others every g-th is a target;
a contextual token is its target plus the mean of the tokens whose keys are most similar to the target's.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.schedules import check_keep, count
from thinsight.reduction.sources import take_at
from thinsight.reduction.stages import Blend, copied, copies, one_each
from thinsight.reduction.ties import cosines, distances, largest
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class DominantContextual:
    """Dominant tokens stay, and contextual ones are made of the rest.

    keep         both together
    share        of it is contextual (30 of 192, 20 of 128, 10 of 64)
    dominant     how many, with ``contextual`` how many, whatever ``keep`` says
    class_token  one of the dominant ones is the class token, if there are any
    """

    keep: int | float = 0.3333
    share: float = 0.15625
    dominant: int | None = None
    contextual: int | None = None
    class_token: bool = False
    inclusive = False

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if not 0 <= self.share <= 1:
            raise UserError(f"contextual_share={self.share} is no fraction between 0 and 1")
        if (self.dominant is None) != (self.contextual is None):
            raise UserError("dominant and contextual go together: give both numbers, or neither")

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        parts = self.parts(total)
        return present if sum(parts) >= present else parts[0]

    def parts(self, total: int) -> tuple[int, int, int]:
        """Of ``total`` patches: how many stay, contextual tokens, copies of the class token (0 or 1)."""
        if self.dominant is None:
            both = count(self.keep, total)
            contextual = round(self.share * both)
            dominant = both - contextual
        else:
            dominant, contextual = self.dominant, self.contextual
        handed = int(self.class_token and dominant > 0)
        return dominant - handed, contextual, handed


@dataclass(frozen=True)
class Contextual:
    """Every g-th leaver becomes a target, and the other leavers go to the target with the most similar key.

    Leavers are counted in raster order, g is the whole number of leavers to a target, similarity the cosine of keys
    (the mean over heads). A target becomes the sum of itself and of the mean of those that came, and keeps its place.
    Goes with `Blended` and with a filter that is shown all tokens.

    split  how many targets, and whether a copy of the class token is handed on with them (the released code). The copy
           takes the first place that no target stands at, and is named after the class token
    """

    split: DominantContextual = field(default_factory=DominantContextual)

    @property
    def needs(self) -> frozenset[str]:
        """Keys, and the class token, if it is handed on."""
        return frozenset({"attention", "cls"} if self.split.class_token else {"attention"})

    def adds(self, leave: int, keep: int) -> int:
        """Contextual tokens, and the class token's copy."""
        return sum(self.split.parts(leave + keep)[1:])

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Blend:
        _, contextual, handed = self.split.parts(tokens.patches)
        leaving = leaving.sort(dim=-1).values
        targets, others, goes = assign(evidence.keys(take_at(tokens.index, leaving)), contextual)
        targets, others = leaving[..., targets], leaving[..., others]
        parts, staying = copied(tokens, leaving)
        mean = one_each(goes, contextual)
        mean = mean / mean.sum(-2, keepdim=True).clamp(min=1)
        rows = others[..., None].expand(mean.shape)
        made = copies(targets, len(tokens)).scatter_(-2, rows, mean)
        place = named = torch.cat([staying, targets], -1)
        if not handed:
            return Blend(torch.cat([parts, made], -1), place)
        row = tokens.rows(visual=False)[..., :1]
        made = torch.cat([made, copies(row, len(tokens))], -1)
        place, named = torch.cat([place, (others if contextual else leaving)[..., :1]], -1), torch.cat([named, row], -1)
        return Blend(torch.cat([parts, made], -1), place, named)


def assign(keys: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """keys (..., heads, n, width) -> targets (count,), the others (n - count,), and the number of each one's target
    (..., n - count)."""
    keys = keys.float().mean(-3)
    number = keys.shape[-2]
    targets = range(number)[:: max(1, number // max(count, 1))][:count]
    others = sorted(set(range(number)) - set(targets)) if count else []
    targets, others = (torch.tensor(rows, dtype=torch.int64, device=keys.device) for rows in (list(targets), others))
    goes = -distances(cosines(keys[..., others, :], keys[..., targets, :]))
    return targets, others, largest(goes, scale=1.0) if count else goes.new_zeros(goes.shape[:-1], dtype=torch.int64)


@dataclass(frozen=True)
class ClassFirst:
    """First a class token that is handed on as if it were a patch, then the others as they are."""

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        first = ~tokens.visual | (tokens.origins[..., :, None] == evidence.cls[..., None, :]).any(-1)
        return (~first).to(torch.uint8).argsort(dim=-1, stable=True)
