"""Tokens and evidence of one image in a vision tower, from numbers that a test writes down."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinsight.reduction.attention import LayerAttention, split_heads
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.method import Reduction, apply_reduction
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class WrittenEvidence(Evidence):
    """Evidence with a class token's attention (heads, columns), keys (heads, columns, d), or a whole layer."""

    row: Tensor | None = None
    metric: Tensor | None = None

    def attention(self, rows: Tensor, columns: Tensor, source: str = "attention", heads: bool = False) -> Tensor:
        if self.row is None:
            return super().attention(rows, columns, source, heads)
        attention = self.row[:, None, columns]
        return attention if heads else attention.mean(0)

    def keys(self, index: Tensor, source: str = "attention") -> Tensor:
        return super().keys(index, source) if self.metric is None else self.metric[:, index]


def sequence(states: Tensor, classes: int = 1) -> Tokens:
    """Untouched tokens of one image, class tokens first: states (classes + patches, width)."""
    index = torch.arange(len(states))
    return Tokens.fresh(index, index >= classes).with_states(states)


def image_evidence(tokens: Tokens, classes: int = 1, columns: int | None = None, **facts) -> WrittenEvidence:
    """What a stage may ask about ``tokens`` of an image that came with ``columns`` of them."""
    image = torch.zeros(columns or len(tokens), dtype=torch.int64)
    image[:classes] = -1
    return WrittenEvidence(0, 1, image, lambda: b"", sequence=tokens, **facts)


def layer_attention(index: Tensor, queries: Tensor, keys: Tensor, width: int) -> dict:
    """``attention_at`` of one layer, for both names: queries and keys (columns, heads * width)."""
    layer = LayerAttention(
        index, lambda at: split_heads(queries[at], width), split_heads(keys, width), width**-0.5, causal=False
    )
    return {"attention": lambda: layer, "next": lambda: layer}


def run(reduction: Reduction, tokens: Tokens, evidence: Evidence) -> Tokens:
    """One step of a reduction over the tokens of one image."""
    return apply_reduction(reduction, tokens, replace(evidence, sequence=tokens), len(evidence.image))


def patches(tokens: Tokens, classes: int = 1) -> list[int]:
    """What the tokens that are no class tokens are named after, counted from 0."""
    return (tokens.origins[tokens.visual] - classes).tolist()


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers of a shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
