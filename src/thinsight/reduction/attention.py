"""Attention rows of one layer, computed from its queries and keys alone: no eager attention anywhere."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerAttention:
    """Queries and keys of one layer for one sample, and the attention rows that they make.

    index    (tokens,) int64            the tokens by their index, ascending: the layer's order
    queries  rows -> (heads, rows, d)   rotated where the layer rotates; of the rows asked for only
    keys     (heads, tokens, d)         likewise, repeated for grouped queries
    scaling  float                      what logits are multiplied with
    causal   bool                       whether a row sees no later ones
    bias     (tokens,) or None          added to the logits of each key (log size under proportional attention)
    tables   two (tokens, d) or None    cosines and sines of the rotation; None where there is none
    """

    index: Tensor
    queries: Callable[[Tensor], Tensor]
    keys: Tensor
    scaling: float
    causal: bool
    bias: Tensor | None = None
    tables: tuple[Tensor, Tensor] | None = None

    def rows(self, index: Tensor) -> Tensor:
        """(n,) where the tokens ``index`` stand in this layer."""
        return torch.searchsorted(self.index, index).to(self.keys.device)

    def logits(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(heads, rows, columns) fp32: scaled products of queries and keys, before mask and softmax."""
        keys = self.keys[:, self.rows(columns)].float()
        return self.queries(self.rows(rows)).float() @ keys.transpose(1, 2) * self.scaling

    def attention(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(heads, rows, columns) fp32: attention of the ``rows`` over all tokens, of which ``columns`` are given."""
        at = self.rows(rows)
        scores = self.queries(at).float() @ self.keys.float().transpose(1, 2) * self.scaling
        if self.bias is not None:
            scores = scores + self.bias.to(scores.device)
        if self.causal:
            later = torch.arange(scores.shape[-1], device=at.device) > at[:, None]
            scores = scores.masked_fill(later, -torch.inf)
        return scores.softmax(-1)[..., self.rows(columns)]


@dataclass
class CapturedQK:
    """What one layer's projections gave in one call, for the whole batch; all still unrotated.

    queries, keys  (batch, rows, heads * d)
    width          d, of one head
    index, rows    per sample: the alive tokens, and the rows of the tensors that they stand in
    tables         (batch or 1, rows, d) cosines and sines, or None where nothing is rotated
    bias           per sample (tokens,): added to the logits; None for none
    """

    width: int
    scaling: float
    index: list[Tensor]
    rows: list[Tensor]
    queries: Tensor | None = None
    keys: Tensor | None = None
    tables: tuple[Tensor, Tensor] | None = None
    bias: list[Tensor] | None = None

    def layer_attention(self, sample: int) -> LayerAttention:
        """The part of one sample, rotated."""
        rows = self.rows[sample].to(self.keys.device)
        queries, keys = self.queries[sample][rows], split_heads(self.keys[sample][rows], self.width)
        tables = None
        if self.tables is not None:
            tables = tuple(t[min(sample, len(t) - 1)][rows] for t in self.tables)
            keys = rotate(keys, *tables)
        groups = queries.shape[-1] // (keys.shape[0] * self.width)

        def queries_of(at: Tensor) -> Tensor:
            chosen = split_heads(queries[at], self.width)
            return chosen if tables is None else rotate(chosen, *(t[at] for t in tables))

        bias = None if self.bias is None else self.bias[sample]
        keys = keys.repeat_interleave(groups, 0)
        causal = self.tables is not None
        return LayerAttention(self.index[sample], queries_of, keys, self.scaling, causal, bias, tables)


def split_heads(states: Tensor, width: int) -> Tensor:
    """(..., rows, heads * width) -> (..., heads, rows, width)."""
    return states.unflatten(-1, (-1, width)).transpose(-2, -3)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Llama's half-split rotary embedding: states (heads, rows, width), tables (rows, width)."""
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat([-second, first], -1) * sin
