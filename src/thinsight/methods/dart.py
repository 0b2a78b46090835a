"""DART (arXiv:2502.11494): visual tokens that resemble a few pivot tokens leave, as duplicates.

Each of the P pivots keeps the (keep - P_image) / P free visual tokens x with the smallest cos(norm(x), norm(pivot)).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import take_at
from thinsight.reduction.stages import lowest
from thinsight.reduction.ties import cosines, descending, distances
from thinsight.reduction.tokens import Tokens, places

ORDERS = ("norm", "set")


@dataclass(frozen=True)
class Pivots:
    """Image pivots stay, and with each pivot in turn the free visual tokens that resemble it least.

    Pivots are the tokens whose keys in the layer before, rotated and all heads together, have the largest L1 norm:
    ``image`` visual tokens and ``text`` tokens behind the picture. Resemblance is the cosine of states after the
    decoder's final norm. Every pivot takes floor((keep - image) / pivots) tokens, and the first ones one more where
    that falls short.

    order  norm: image pivots before text pivots, each by descending norm. set: the order in which CPython iterates over
           the set of their positions (released code), on which the choice depends
    exact  False: floor(keep / pivots) tokens for each pivot and the image pivots on top (released code), which is not
           quite what was asked for, see `reaches`
    """

    image: int = 4
    text: int = 4
    order: str = "norm"
    exact: bool = True
    among = "visual"
    needs = frozenset({"attention", "norm", "text"})

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise nearest("order of the pivots", self.order, ORDERS)
        if self.image < 1 or self.text < 0:
            raise UserError(f"at least one image pivot is needed, not image={self.image} and text={self.text}")

    def reaches(self, keep: int, present: int) -> int:
        """How many visual tokens are kept if ``keep`` are asked for."""
        pivots = self.image + self.text
        return keep if self.exact else self.image + pivots * (keep // pivots)

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        keep = None if leave is None else len(tokens) - leave
        if keep is None or keep <= self.image:
            return lowest(key_norms(tokens.index, evidence), leave)
        image, text = self.pivots(tokens.index, evidence)
        return tokens.rest(self.spread(tokens.index, self.visited(image, text, evidence), image, keep, evidence))

    def pivots(self, index: Tensor, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """The pivots among the visual tokens ``index`` and in the text, each by descending norm, given by index."""
        text = evidence.question
        return tuple(
            take_at(candidates, descending(key_norms(candidates, evidence))[..., :count])
            for candidates, count in ((index, self.image), (text, self.text))
        )

    def visited(self, image: Tensor, text: Tensor, evidence: Evidence) -> Tensor:
        """The pivots in the order in which they choose, by index."""
        both = torch.cat([image, text], -1)
        if self.order == "norm":
            return both
        positions = torch.searchsorted(evidence.sequence.index, both)
        rows = [list(set(row)) for row in positions.reshape(-1, both.shape[-1]).tolist()]  # the host's order of a set
        return take_at(evidence.sequence.index, torch.tensor(rows, device=both.device).reshape(both.shape))

    def spread(self, index: Tensor, pivots: Tensor, image: Tensor, keep: int, evidence: Evidence) -> Tensor:
        """Rows (keep,) of the visual tokens ``index`` that stay."""
        norm = evidence.get("norm")
        states, visual = norm(evidence.states(torch.cat([index, pivots], -1))), index.shape[-1]
        apart = distances(cosines(states[..., visual:, :], states[..., :visual, :]))  # (pivots, visual)
        chosen = (index[..., :, None] == image[..., None, :]).any(-1)
        each, more = divmod(keep - image.shape[-1], pivots.shape[-1])
        for number, row in enumerate(apart.unbind(-2)):
            free = descending(row.masked_fill(chosen, -torch.inf), scale=1.0)
            chosen = chosen.scatter(-1, free[..., : each + (number < more)], True)
        return places(chosen, keep)


def key_norms(index: Tensor, evidence: Evidence) -> Tensor:
    """(n,) fp32: L1 norm of the keys of the tokens ``index``, all heads together."""
    return evidence.keys(index).float().abs().sum((-3, -1))
