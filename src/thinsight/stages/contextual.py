"""VisionZip's contextual tokens (arXiv:2412.04467): a few targets collect what is most like them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.evidence import Evidence
from thinsight.shrinking import Split
from thinsight.stages.blend import Blend, copied
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class Contextual:
    """Every g-th leaver in raster order is a target, g the whole number of leavers to a target; the other leavers go to
    the target whose key (the mean over heads) is most similar to theirs (cosine). A target becomes the sum of itself
    and of the mean of those that came; it stands where it stood.

    Goes with `thinsight.stages.blend.Blended` and with a filter that is shown all tokens.

    split  how many targets, and whether a copy of the class token is handed on with them (the released code). The copy
           takes the first place that no target stands at, and is named after the class token
    """

    split: Split = field(default_factory=Split)

    @property
    def needs(self) -> frozenset[str]:
        """Keys, and the class token, if it is handed on."""
        return frozenset({"attention", "cls"} if self.split.class_token else {"attention"})

    def adds(self, leave: int, keep: int) -> int:
        """Contextual tokens, and the class token's copy."""
        return sum(self.split.parts(leave + keep)[1:])

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Blend:
        _, contextual, handed = self.split.parts(int(tokens.visual.sum()))
        leaving = leaving.sort().values
        targets, others, goes = assign(evidence.keys(tokens.index[leaving]), contextual)
        targets, others = leaving[targets], leaving[others]
        made = torch.zeros(len(tokens), len(targets))
        made[others, goes] = 1.0
        made /= made.sum(0).clamp(min=1)
        made[targets, torch.arange(len(targets))] = 1.0
        parts, staying = copied(tokens, leaving)
        place, named = torch.cat([staying, targets]), torch.cat([staying, targets])
        if handed:
            row, spare = (~tokens.visual).nonzero()[0], leaving[~torch.isin(leaving, targets)][:1]
            made = torch.cat([made, torch.eye(len(tokens))[:, row]], 1)
            place, named = torch.cat([place, spare]), torch.cat([named, row])
        return Blend(torch.cat([parts, made], 1), place, named)


def assign(keys: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """keys (heads, n, width) -> targets (count,), the others (n - count,), and the number of each one's target."""
    units = normalize(keys.float().mean(0), dim=-1)
    targets = torch.arange(len(units))[:: max(1, len(units) // max(count, 1))][:count]
    alone = torch.ones(len(units), dtype=torch.bool)
    alone[targets] = False
    others = alone.nonzero().squeeze(1)
    if count == 0:
        return targets, others[:0], others[:0]
    return targets, others, (units[others] @ units[targets].T).argmax(1).cpu()
