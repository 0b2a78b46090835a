"""ToMe's bipartite matching (arXiv:2210.09461, section 3): tokens in even places merge into tokens in odd ones.

Places are those in the sequence as it is now, class token included; what is compared is the key of the block, the mean
over heads. A class token neither leaves nor takes anything in.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import UserError
from thinsight.evidence import Evidence
from thinsight.stages.blend import Blend
from thinsight.stages.compress import WeightedMerge
from thinsight.stages.correlate import Routes
from thinsight.tokens import Tokens


def matched(index: Tensor, visual: Tensor, evidence: Evidence) -> Tensor:
    """(even, odd) fp32 on the CPU: cosines of the keys of all tokens ``index``; -inf where one is no patch."""
    units = normalize(evidence.keys(index).float().mean(0), dim=-1)
    found = (units[::2] @ units[1::2].T).cpu()
    return found.masked_fill(~(visual[::2, None] & visual[None, 1::2]), -torch.inf)


@dataclass(frozen=True)
class MostSimilar:
    """The tokens in even places leave that are most similar to one in an odd place."""

    among = "all"
    needs = frozenset({"attention"})

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        best = matched(tokens.index, tokens.visual, evidence).amax(1)
        return 2 * best.argsort(descending=True, stable=True)[:leave]


@dataclass(frozen=True)
class ToPartner:
    """Each leaver goes whole to the token in an odd place that it is most similar to."""

    needs = frozenset({"attention"})

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        if bool((leaving % 2).any()):
            raise UserError("ToPartner follows a filter by which tokens in even places leave (MostSimilar)")
        partner = 2 * matched(tokens.index, tokens.visual, evidence)[leaving // 2].argmax(1) + 1
        staying = tokens.rest(leaving)
        weights = torch.zeros(len(leaving), len(staying))
        weights[torch.arange(len(leaving)), torch.searchsorted(staying, partner)] = 1.0
        return weights


@dataclass(frozen=True)
class Merge(WeightedMerge):
    """`WeightedMerge`, after which a token stands where the first of its members stood, if they go on in raster order.

    order  raster | official: as `thinsight.stages.handed.Handed` has it
    """

    order: str = "raster"

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | Routes | Blend | None) -> Tokens:
        after = super().__call__(tokens, leaving, weights)
        if self.order != "raster" or after.origin is not None:
            return after
        first = after.index.scatter_reduce(0, weights.argmax(1).cpu(), tokens.index[leaving], "amin")
        return replace(after, index=first)


@dataclass(frozen=True)
class Parity:
    """Class tokens, then what is left in even places, then the odd ones (released code). Without a class token the even
    ones go on by descending similarity: the code sorts them for its sake only."""

    needs = frozenset({"attention"})

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        before = evidence.sequence
        place = torch.searchsorted(before.index, tokens.index)
        even, odd = place % 2 == 0, place % 2 == 1
        firsts, even, odd = (
            (rows & v).nonzero().squeeze(1)
            for rows, v in ((torch.ones_like(even), ~tokens.visual), (even, tokens.visual), (odd, tokens.visual))
        )
        if len(firsts) == 0:
            best = matched(before.index, before.visual, evidence).amax(1)[place[even] // 2]
            even = even[best.argsort(descending=True, stable=True)]
        return torch.cat([firsts, even, odd])
