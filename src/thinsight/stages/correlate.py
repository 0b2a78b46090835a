"""Correlations: where the information of each leaving token goes."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.evidence import Evidence
from thinsight.tokens import Tokens


class Routes(NamedTuple):
    """Where leavers go, if some of them make new tokens.

    stay    (leaving, staying)   weights to the stayers, in their order
    new     (leaving, new)       weights to the new tokens; None for none
    anchor  (new,) int64         the leaver (a row of the weights) that each new token takes its place and name from;
                                 no two the same
    """

    stay: Tensor
    new: Tensor | None = None
    anchor: Tensor | None = None


class Correlate(Protocol):
    """``correlate(tokens, leaving, evidence)`` -> weights (leaving, staying), stayers in order, or `Routes`.

    Where it makes new tokens it has ``adds(leave, keep)``: how many, if ``leave`` leave and ``keep`` stay. Where it
    sends some leavers nowhere it says so: ``lossy``.
    """

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor | Routes: ...


@dataclass(frozen=True)
class ToNearest:
    """Each leaver goes whole to the stayer with the most similar state (cosine), as in ToMe (arXiv:2210.09461)."""

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        units = normalize(tokens.states.float(), dim=-1)
        staying = tokens.rest(leaving)
        return to_one(units[leaving.to(units.device)] @ units[staying.to(units.device)].T)


def to_one(similarity: Tensor) -> Tensor:
    """(leaving, staying) -> weights of the same shape: 1 for each row's largest entry, else 0."""
    return torch.zeros_like(similarity).scatter_(1, similarity.argmax(1, keepdim=True), 1.0)
