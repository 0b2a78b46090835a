"""Small samples (words, one picture, words) with attention, keys and states that a test writes down."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.reduction.evidence import Evidence
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class WrittenEvidence(Evidence):
    """Evidence whose attention (heads, tokens, tokens) and keys (heads, tokens, width) are given."""

    attended: Tensor | None = None
    keyed: Tensor | None = None

    def attention(self, rows: Tensor, columns: Tensor, source: str = "attention", heads: bool = False) -> Tensor:
        attention = self.attended[:, rows][:, :, columns]
        return attention if heads else attention.mean(0)

    def keys(self, index: Tensor, source: str = "attention") -> Tensor:
        return self.keyed[:, index]


def sample(
    visual: int,
    *,
    before: int = 2,
    after: int = 3,
    states: Tensor | None = None,
    attended: Tensor | None = None,
    keyed: Tensor | None = None,
    **provided: Callable,
) -> tuple[Tokens, WrittenEvidence]:
    """The ``visual`` tokens behind ``before`` words and before ``after`` of them, and evidence about all."""
    count = before + visual + after
    image = torch.full((count,), -1)
    image[before : before + visual] = 0
    every = Tokens.fresh(torch.arange(count), image >= 0).with_states(states)
    providers = {name: (lambda value=value: value) for name, value in provided.items()}
    evidence = WrittenEvidence(
        3, 12, image, lambda: b"", sequence=every, providers=providers, attended=attended, keyed=keyed
    )
    return every.take(every.visual), evidence
