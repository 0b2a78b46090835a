"""What the text attends to stays: FastV's and PyramidDrop's filter."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.evidence import Evidence
from thinsight.tokens import Tokens

ROWS = ("last", "all")


@dataclass(frozen=True)
class Attended:
    """The tokens with the least attention leave, with phi_i the mean over heads of softmax attention to token i.

    rows  last: of the last prompt token alone, from which the answer is predicted (the released codes of FastV,
          arXiv:2403.06764, and PyramidDrop, arXiv:2410.17247); all: the mean over every token of the prompt, those
          before i counted with zero (the text of FastV's section 4.1)
    of    attention: of the layer before (FastV); next: of the layer to come, with its own norm and projections
          (PyramidDrop, section 3.2)
    """

    rows: str = "last"
    of: str = "attention"
    among = "visual"

    def __post_init__(self) -> None:
        if self.rows not in ROWS:
            raise nearest("rows of attention", self.rows, ROWS)
        if self.of not in ("attention", "next"):
            raise nearest("layer of attention", self.of, ("attention", "next"))

    @property
    def needs(self) -> frozenset[str]:
        """The layer it looks at."""
        return frozenset({self.of})

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        return lowest(self.scores(tokens.index, evidence), leave)

    def scores(self, index: Tensor, evidence: Evidence) -> Tensor:
        """(n,) fp32: phi of the tokens ``index``."""
        rows = evidence.last if self.rows == "last" else evidence.sequence.index
        return evidence.attention(rows, index, of=self.of).mean(0)


def lowest(scores: Tensor, leave: int | None) -> Tensor:
    """Rows (leave,) int64 of the lowest scores (n,), the best of them first; of equal ones the later leaves.

    A schedule that leaves their number open is a `UserError`: a ranking does not say where to stop.
    """
    if leave is None:
        raise UserError("this filter ranks tokens only: give it a schedule that says how many leave")
    order = scores.float().argsort(descending=True, stable=True)
    return order[max(len(scores) - leave, 0) :].cpu().to(torch.int64)
