"""FastV (arXiv:2403.06764): the visual tokens that get the least attention leave at one early decoder layer.

With phi_i the attention that token i receives in layer K - 1, the mean over heads, the share R of the visual tokens
with the lowest phi leaves before layer K (section 4.1). PyramidDrop (arXiv:2410.17247) uses the same score.
"""

from dataclasses import dataclass

from torch import Tensor

from thinsight.errors import nearest
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.stages import lowest
from thinsight.reduction.tokens import Tokens

ROWS = ("last", "all")


@dataclass(frozen=True)
class TextAttention:
    """The visual tokens with the least attention leave: phi_i is the mean over heads of softmax attention to token i.

    rows    last: attention of the last prompt token alone, from which the answer is predicted (the released codes of
            FastV and PyramidDrop); all: the mean over every token of the prompt, those before i counted with zero (the
            text of FastV's section 4.1)
    source  attention: of the layer before (FastV); next: of the layer to come, with its own norm and projections
            (PyramidDrop, section 3.2)
    """

    rows: str = "last"
    source: str = "attention"
    among = "visual"
    attention_rows = "one"

    def __post_init__(self) -> None:
        if self.rows not in ROWS:
            raise nearest("rows of attention", self.rows, ROWS)
        if self.source not in ("attention", "next"):
            raise nearest("layer of attention", self.source, ("attention", "next"))

    @property
    def needs(self) -> frozenset[str]:
        """Attention of that layer."""
        return frozenset({self.source})

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        return lowest(self.scores(tokens.index, evidence), leave)

    def scores(self, index: Tensor, evidence: Evidence) -> Tensor:
        """(samples, n) fp32: phi of the tokens ``index``."""
        rows = evidence.last if self.rows == "last" else evidence.sequence.index
        return evidence.attention(rows, index, source=self.source).mean(-2)
