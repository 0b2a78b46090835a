"""Samples small enough to see: words, one picture, words; and attention, keys and states that a test writes down."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.reduction.evidence import Evidence
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class Given(Evidence):
    """Evidence whose attention (heads, tokens, tokens) and keys (heads, tokens, width) are given."""

    attended: Tensor | None = None
    keyed: Tensor | None = None

    def attention(self, rows: Tensor, columns: Tensor, of: str = "attention", heads: bool = False) -> Tensor:
        found = self.attended[:, rows][:, :, columns]
        return found if heads else found.mean(0)

    def keys(self, index: Tensor, of: str = "attention") -> Tensor:
        return self.keyed[:, index]


def sample(
    visual: int,
    *,
    before: int = 2,
    after: int = 3,
    states: Tensor | None = None,
    attended: Tensor | None = None,
    keyed: Tensor | None = None,
    **more: Callable,
) -> tuple[Tokens, Given]:
    """The ``visual`` tokens behind ``before`` words and before ``after`` of them, and evidence about all."""
    count = before + visual + after
    image = torch.full((count,), -1)
    image[before : before + visual] = 0
    every = Tokens.fresh(torch.arange(count), image >= 0).with_states(states)
    more = {name: (lambda value=value: value) for name, value in more.items()}
    evidence = Given(3, 12, image, lambda: b"", sequence=every, more=more, attended=attended, keyed=keyed)
    return every.take(every.visual), evidence
