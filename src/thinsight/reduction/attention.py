"""Attention rows of one layer, computed from its queries and keys alone: no eager attention anywhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from thinsight.reduction.sources import take_at

CHUNK = 2**21
"""How many attention weights are alive at a time while the mean over heads is summed up, unless one head has more."""


@dataclass(frozen=True)
class LayerAttention:
    """Queries and keys of one layer, and the attention rows that they make. Several samples have an axis in front.

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
    _mean: list[Tensor] = field(default_factory=list, compare=False, repr=False)

    def without_filling(self) -> "LayerAttention":
        """The same where nothing attends to tokens of index -1."""
        hidden = torch.zeros(self.index.shape, dtype=torch.float32, device=self.keys.device)
        hidden = hidden.masked_fill(self.index < 0, -torch.inf)
        return replace(self, bias=hidden if self.bias is None else self.bias + hidden)

    def only(self) -> "LayerAttention":
        """The one sample without its axis."""
        bias, tables = None if self.bias is None else self.bias[0], self.tables and tuple(t[0] for t in self.tables)
        queries = self.queries
        return replace(
            self,
            index=self.index[0],
            queries=lambda at: queries(at[None])[0],
            keys=self.keys[0],
            bias=bias,
            tables=tables,
            _mean=[],
        )

    def rows(self, index: Tensor) -> Tensor:
        """(n,) where the tokens ``index`` stand in this layer."""
        return torch.searchsorted(self.index, index.contiguous())

    def logits(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(heads, rows, columns) fp32: scaled products of queries and keys, before mask and softmax."""
        keys = of_heads(self.keys, self.rows(columns)).float()
        return self.queries(self.rows(rows)).float() @ keys.transpose(-2, -1) * self.scaling

    def attention(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(heads, rows, columns) fp32: attention of the ``rows`` over all tokens, of which ``columns`` are given."""
        at = self.rows(rows)
        return at_columns(self._weights(self.queries(at), self.keys, at), self.rows(columns))

    def mean_attention(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(rows, columns) fp32: the mean over heads of `attention`. Asked for half of the rows or more it makes the
        whole map (tokens, tokens) once and keeps it for those who ask next."""
        at, to, tokens = self.rows(rows), self.rows(columns), self.index.shape[-1]
        if not self._mean and 2 * at.shape[-1] >= tokens:
            every = torch.arange(tokens, device=at.device).expand_as(self.index)
            self._mean.append(self._mean_rows(every))
        found = take_at(self._mean[0], at) if self._mean else self._mean_rows(at)
        return at_columns(found, to)

    def mean_logits(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(rows, columns) fp32: the mean over heads of `logits`, which is one product of all heads in a row."""
        keys = of_heads(self.keys, self.rows(columns)).float()
        queries = self.queries(self.rows(rows)).float()
        heads = keys.shape[-3]
        queries, keys = (part.transpose(-3, -2).flatten(-2) for part in (queries, keys))
        return queries @ keys.transpose(-2, -1) * (self.scaling / heads)

    def _mean_rows(self, at: Tensor) -> Tensor:
        """(rows, tokens) fp32, summed up over a few heads at a time."""
        queries, heads = self.queries(at), self.keys.shape[-3]
        several = max(1, CHUNK // max(at.numel() * self.index.shape[-1], 1))
        total = None
        for start in range(0, heads, several):
            part = slice(start, start + several)
            weights = self._weights(queries[..., part, :, :], self.keys[..., part, :, :], at).sum(-3)
            total = weights if total is None else total.add_(weights)
        return total.div_(heads)

    def _weights(self, queries: Tensor, keys: Tensor, at: Tensor) -> Tensor:
        """(heads, rows, tokens) fp32, the queries being those of the rows ``at``."""
        scores = (queries.float() * self.scaling) @ keys.float().transpose(-2, -1)
        if self.bias is not None:
            scores = scores + self.bias.to(scores.device)[..., None, None, :]
        if self.causal:
            later = torch.arange(scores.shape[-1], device=at.device) > at[..., None]
            scores = scores.masked_fill_(later[..., None, :, :], -torch.inf)
        return scores.softmax(-1)


def of_heads(values: Tensor, rows: Tensor) -> Tensor:
    """values (..., heads, tokens, d), rows (..., n) -> (..., heads, n, d)."""
    if rows.dim() == 1:
        return values.index_select(-2, rows)
    return values.gather(-2, rows[..., None, :, None].expand(*values.shape[:-2], -1, values.shape[-1]))


def at_columns(values: Tensor, columns: Tensor) -> Tensor:
    """values (..., heads, rows, tokens) or without heads, columns (..., n) -> (..., rows, n)."""
    if columns.dim() == 1:
        return values.index_select(-1, columns)
    between = (None,) * (values.dim() - columns.dim())
    return values.gather(-1, columns[(..., *between, slice(None))].expand(*values.shape[:-1], -1))


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

    def layer_attention(self, samples: Sequence[int]) -> LayerAttention:
        """The part of these samples side by side, rotated; those with fewer tokens are filled up in front with tokens
        of index -1, to which nothing attends."""
        every = [self.index[sample] for sample in samples]
        index = filled_up(every, -1)
        rows = filled_up([self.rows[sample] for sample in samples], 0).to(self.keys.device)

        def own(states: Tensor) -> Tensor:
            states = side_by_side(states, samples)
            return states if rows.shape[1] == states.shape[1] and not ragged else take_at(states, rows)

        ragged = any(len(columns) != index.shape[1] for columns in every)
        queries, keys, tables = own(self.queries), split_heads(own(self.keys), self.width), None
        if self.tables is not None:
            tables = tuple(own(t.expand(len(self.keys), -1, -1)) for t in self.tables)
            keys = rotate(keys, *(t[:, None] for t in tables))
        groups = queries.shape[-1] // (keys.shape[1] * self.width)

        def queries_of(at: Tensor) -> Tensor:
            chosen = split_heads(take_at(queries, at), self.width)
            return chosen if tables is None else rotate(chosen, *(take_at(t, at)[:, None] for t in tables))

        bias = None if self.bias is None else filled_up([self.bias[sample] for sample in samples], 0.0)
        keys = keys.repeat_interleave(groups, 1) if groups > 1 else keys
        causal = self.tables is not None
        layer = LayerAttention(index, queries_of, keys, self.scaling, causal, bias, tables)
        return layer.without_filling() if ragged else layer


def filled_up(samples: Sequence[Tensor], value: float) -> Tensor:
    """Samples (n,) of different lengths side by side, the shorter ones with ``value`` in front."""
    most = max(map(len, samples))
    if all(len(sample) == most for sample in samples):
        return torch.stack(list(samples))
    return torch.stack([torch.nn.functional.pad(sample, (most - len(sample), 0), value=value) for sample in samples])


def side_by_side(states: Tensor, samples: Sequence[int]) -> Tensor:
    """states (batch, ...) -> those of the ``samples``; the very same where that is all of them in order."""
    if list(samples) == list(range(len(states))):
        return states
    if len(samples) == 1:
        return states[samples[0] : samples[0] + 1]
    return torch.stack([states[sample] for sample in samples])


def split_heads(states: Tensor, width: int) -> Tensor:
    """(..., rows, heads * width) -> (..., heads, rows, width)."""
    return states.unflatten(-1, (-1, width)).transpose(-2, -3)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Llama's half-split rotary embedding: states (heads, rows, width), tables (rows, width)."""
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat([-second, first], -1) * sin
