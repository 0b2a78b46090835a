"""VTW: all visual tokens leave at one decoder layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class AllVisual:
    """Every visual token leaves; no score, no ranking (VTW, arXiv:2405.05803, section 3)."""

    among = "visual"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        if leave != len(tokens):
            raise UserError("AllVisual removes every visual token: give it a schedule that keeps 0, or another filter")
        return torch.arange(len(tokens))
