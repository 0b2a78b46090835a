"""VTW (arXiv:2405.05803): all visual tokens leave before one decoder layer, and text alone goes on.

Of N visual and M text tokens, layers 0..K-1 see N + M and layers K..L-1 see M (section 3). The layer K is a field of
``conf/method/vtw.yaml``; `thinsight.runtime.layer_selection` chooses it once per model: the first candidate at which
the divergence of the next-token distribution from the whole model's falls below a threshold (0.003).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class AllVisual:
    """Every visual token leaves; no score, no ranking."""

    among = "visual"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        if leave != len(tokens):
            raise UserError("AllVisual removes every visual token: give it a schedule that keeps 0, or another filter")
        return torch.arange(len(tokens), device=tokens.index.device).expand_as(tokens.index)
