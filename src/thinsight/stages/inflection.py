"""The head of a long tail stays: patches like the class token (arXiv:2409.01162, first stage)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import nearest
from thinsight.evidence import Evidence
from thinsight.stages.attended import lowest
from thinsight.tokens import Tokens

CLASSES = ("token", "received", "key_mean")


@dataclass(frozen=True)
class Inflection:
    """The patches least similar to the class token leave; where nobody says how many, all behind the inflection point.

    cls  token: the cosine of a patch's features and the class token's
         received: the mean attention that it receives from all patches, for towers without a class token
         key_mean: minus the cosine of its key and the mean key, heads averaged (FiCoCo's substitute, arXiv:2411.17686)
    """

    cls: str = "token"
    among = "visual"

    def __post_init__(self) -> None:
        if self.cls not in CLASSES:
            raise nearest("class token or substitute", self.cls, CLASSES)

    @property
    def needs(self) -> frozenset[str]:
        """A class token, or the attention of the layer that the projector reads."""
        return frozenset({"cls" if self.cls == "token" else "attention"})

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        scores = self.scores(tokens.index, evidence)
        return lowest(scores, len(scores) - head(scores) if leave is None else leave)

    def scores(self, index: Tensor, evidence: Evidence) -> Tensor:
        """(n,) fp32: similarity of the patches ``index`` to the class token."""
        if self.cls == "received":
            return evidence.attention(index, index).mean(0)
        if self.cls == "key_mean":
            keys = evidence.keys(index).float().mean(0)
            return -(normalize(keys, dim=-1) @ normalize(keys.mean(0), dim=0))
        patches, token = evidence.states(index).float(), evidence.states(evidence.cls).float()
        return normalize(patches, dim=-1) @ normalize(token, dim=-1)[0]


def head(scores: Tensor) -> int:
    """How many scores (n,) stand before the inflection point of their descending curve, at least one.

    The point is the one farthest below the straight line from the largest to the smallest score: where the steep head
    turns into the flat tail. A curve that nowhere runs below that line has no tail, and all of it is head.
    """
    curve = scores.float().sort(descending=True).values.cpu()
    line = torch.lerp(curve[0], curve[-1], torch.linspace(0, 1, len(curve)))
    below = line - curve
    if float(below.max()) <= 1e-6 * float(curve[0] - curve[-1]):
        return len(curve)
    return max(int(below.argmax()), 1)
