"""The tokens of one sample or of several side by side, as a stage sees them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinsight.reduction.sources import Joined, OneOf, Own, Several, Sources, Taken, take_at


@dataclass(frozen=True)
class Tokens:
    """Tokens in raster order, all parts on one device. Several samples have an axis in front of all others
    (samples, tokens, ...) and as many tokens each; the functions here and in the stages work along the last axes.

    states   (tokens, width)    what enters the layer; None while nobody asks for it
    index    (tokens,) int64    column of the prompt (in the vision tower: of its sequence), ascending: drives
                                positions, masks and pictures
    visual   (tokens,) bool     image (True), or text and class tokens (False)
    size     (tokens,) float    how many original tokens each stands for; sums to the original count under merging
    made     steps              share of each original column that went into each token; None: each is only itself
    origin   (tokens,) int64    the column each token is named after, -1 for one that shows no place of the picture;
                                None: its own index. They differ only where a method hands tokens on out of raster order
    count    int                how many are visual, the same in each sample; None: to be counted
    """

    states: Tensor | None
    index: Tensor
    visual: Tensor
    size: Tensor
    made: Sources | None = None
    origin: Tensor | None = None
    count: int | None = None

    @classmethod
    def fresh(cls, index: Tensor, visual: Tensor, count: int | None = None) -> "Tokens":
        """Tokens that have not been touched yet, at the columns ``index``."""
        return cls(None, index, visual, torch.ones_like(index, dtype=torch.float32), count=count)

    @classmethod
    def stacked(cls, samples: Sequence["Tokens"]) -> "Tokens":
        """Samples of equally many visual tokens side by side. Those that have fewer of the others are filled up in
        front, with tokens of index -1."""
        every, most = list(samples), max(map(len, samples))
        if any(tokens.origin is not None for tokens in every):
            every = [replace(tokens, origin=tokens.origins) for tokens in every]
        filled = tuple(most - len(tokens) for tokens in every)
        parts = []
        for each, value in zip(zip(*(tokens._tensors() for tokens in every), strict=True), FILLING, strict=True):
            parts.append(None if each[0] is None else _side_by_side(each, filled, value))
        states, index, visual, size, origin = parts
        made = None if every[0].made is None else Several(tuple(tokens.made for tokens in every), filled)
        return cls(states, index, visual, size, made, origin, every[0].patches)

    def split(self, lengths: Sequence[int]) -> list["Tokens"]:
        """Each sample for itself, the last ``lengths[i]`` tokens of it."""
        parts = [None if part is None else part.unbind(0) for part in self._tensors()]
        each = []
        for number, length in enumerate(lengths):
            skip = len(self) - length
            own = [None if part is None else part[number][skip:] if skip else part[number] for part in parts]
            made = None if self.made is None else OneOf(self.made, number, skip)
            each.append(Tokens(*own[:4], made, own[4], self.count))
        return each

    def first(self) -> "Tokens":
        """The first sample without its axis."""
        return self.split([len(self)])[0]

    def __len__(self) -> int:
        """Tokens of a sample."""
        return self.index.shape[-1]

    @property
    def patches(self) -> int:
        """How many of a sample are visual."""
        return int(self.visual.sum(-1).flatten()[0]) if self.count is None else self.count

    @property
    def origins(self) -> Tensor:
        """(tokens,) the column each token is named after; -1 for none."""
        return self.index if self.origin is None else self.origin

    @property
    def sources(self) -> Tensor | None:
        """(tokens, columns) fp32 on the CPU, multiplied now; None where each token is only itself."""
        return None if self.made is None else self.made.dense({})

    def take(self, rows: Tensor, count: int | None = None) -> "Tokens":
        """The tokens at ``rows`` (int64, in that order; or bool of length ``tokens``, of one sample), all parts alike;
        ``count``: how many of them are visual, where that is known."""
        rows = rows.nonzero()[:, -1].reshape(*rows.shape[:-1], -1) if rows.dtype == torch.bool else rows
        if self.count is not None and count is None and self.count in (0, len(self)):
            count = rows.shape[-1] if self.count else 0
        states, index, visual, size, origin = (
            None if part is None else take_at(part, rows) for part in self._tensors()
        )
        made = None if self.made is None else Taken(self.made, rows)
        return Tokens(states, index, visual, size, made, origin, count)

    def shown(self, visual: bool) -> "Tokens":
        """The visual ones, or the others."""
        patches = self.patches
        if patches == (len(self) if visual else 0):
            return self
        return self.take(self.rows(visual), patches if visual else 0)

    def rows(self, visual: bool) -> Tensor:
        """(n,) rows of the visual ones, or of the others, ascending."""
        return places(self.visual if visual else ~self.visual, self.patches if visual else len(self) - self.patches)

    def to(self, device: torch.device) -> "Tokens":
        """The same, untouched and without states, on another device."""
        return replace(self, index=self.index.to(device), visual=self.visual.to(device), size=self.size.to(device))

    def rest(self, rows: Tensor) -> Tensor:
        """The rows that are not in ``rows``, which names none twice; ascending."""
        gone = torch.zeros(self.index.shape, dtype=torch.bool, device=self.index.device).scatter_(-1, rows, True)
        return places(~gone, len(self) - rows.shape[-1])

    def stayers(self, leaving: Tensor) -> "Tokens":
        """The tokens besides the rows ``leaving``, which are visual ones."""
        known = self.count is not None and self.count >= leaving.shape[-1]
        return self.take(self.rest(leaving), self.count - leaving.shape[-1] if known else None)

    def concat(self, other: "Tokens") -> "Tokens":
        """These tokens, then those."""
        mine, theirs = self, other
        if (self.origin is None) != (other.origin is None):
            mine, theirs = replace(self, origin=self.origins), replace(other, origin=other.origins)
        axis = self.index.dim() - 1
        pairs = zip(mine._tensors(), theirs._tensors(), strict=True)
        states, index, visual, size, origin = (
            None if first is None else torch.cat([first, then], axis) for first, then in pairs
        )
        made = None if mine.made is None else Joined(mine.made, theirs.made)
        known = self.count is not None and other.count is not None
        return Tokens(states, index, visual, size, made, origin, self.count + other.count if known else None)

    def union(self, other: "Tokens") -> "Tokens":
        """Both sets of tokens, by ascending index."""
        both = self.concat(other)
        return both.take(both.index.argsort(dim=-1), both.count)

    def in_given_order(self) -> "Tokens":
        """The tokens in the order they are in, at the same set of places: the first one gets the lowest index."""
        return replace(self, index=self.index.sort(dim=-1).values, origin=self.origins)

    def with_states(self, states: Tensor | None) -> "Tokens":
        """The same tokens with other states, (tokens, width)."""
        return replace(self, states=states)

    def with_sources(self, columns: int) -> "Tokens":
        """The same tokens, of which is followed what they are made of, over ``columns`` columns."""
        return self if self.made is not None else replace(self, made=Own(self.index, columns))

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.states, self.index, self.visual, self.size, self.origin


FILLING = (0, -1, False, 1, -1)
"""What fills up states, index, visual, size and origin."""


def _side_by_side(parts: Sequence[Tensor], filled: Sequence[int], value: float) -> Tensor:
    if any(filled):
        pairs = zip(parts, filled, strict=True)
        parts = [torch.cat([part.new_full((fill, *part.shape[1:]), value), part]) for part, fill in pairs]
    return torch.stack(list(parts))


def places(chosen: Tensor, count: int) -> Tensor:
    """chosen (..., n) bool with ``count`` true ones each -> (..., count) int64 where they stand, ascending."""
    return (~chosen).to(torch.uint8).sort(dim=-1, stable=True).indices[..., :count].contiguous()
