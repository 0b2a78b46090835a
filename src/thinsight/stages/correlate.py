"""Correlations: where the information of each leaving token goes."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.evidence import Evidence
from thinsight.tokens import Tokens


class Correlate(Protocol):
    """``correlate(tokens, leaving, evidence)`` -> weights (leaving, staying), stayers in order, rows summing to 1."""

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor: ...


@dataclass(frozen=True)
class ToNearest:
    """Each leaver goes whole to the stayer with the most similar state (cosine), as in ToMe (arXiv:2210.09461)."""

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        units = normalize(tokens.states.float(), dim=-1)
        staying = tokens.rest(leaving)
        similarity = units[leaving.to(units.device)] @ units[staying.to(units.device)].T
        return torch.zeros_like(similarity).scatter_(1, similarity.argmax(1, keepdim=True), 1.0)
