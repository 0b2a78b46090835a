"""The tokens of one sample, as a stage sees them."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Tokens of one sample in raster order. Bookkeeping stays on the CPU; only ``states`` lives with the model.

    states   (tokens, width)    what enters the layer; None while nobody asks for it
    index    (tokens,) int64    column of the prompt (in the vision tower: of its sequence), ascending: drives
                                positions, masks and pictures
    visual   (tokens,) bool     image (True), or text and class tokens (False)
    size     (tokens,) float    how many original tokens each stands for; sums to the original count under merging
    sources  (tokens, columns)  share of each original column that went into each token; None: each is only itself
    origin   (tokens,) int64    the column each token is named after, -1 for one that shows no place of the picture;
                                None: its own index. They differ only where a method hands tokens on out of raster order
    """

    states: Tensor | None
    index: Tensor
    visual: Tensor
    size: Tensor
    sources: Tensor | None = None
    origin: Tensor | None = None

    @classmethod
    def fresh(cls, index: Tensor, visual: Tensor) -> "Tokens":
        """Tokens that have not been touched yet, at the columns ``index``."""
        return cls(None, index, visual, torch.ones(len(index), dtype=torch.float32))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def origins(self) -> Tensor:
        """(tokens,) the column each token is named after; -1 for none."""
        return self.index if self.origin is None else self.origin

    def take(self, rows: Tensor) -> "Tokens":
        """The tokens at ``rows`` (int64, in that order; or bool of length ``tokens``), all parts alike."""
        rows = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        return Tokens(
            None if self.states is None else self.states[rows.to(self.states.device)],
            self.index[rows],
            self.visual[rows],
            self.size[rows],
            None if self.sources is None else self.sources[rows],
            None if self.origin is None else self.origin[rows],
        )

    def rest(self, rows: Tensor) -> Tensor:
        """The rows that are not in ``rows``, ascending."""
        stays = torch.ones(len(self), dtype=torch.bool)
        stays[rows] = False
        return stays.nonzero().squeeze(1)

    def concat(self, other: "Tokens") -> "Tokens":
        """These tokens, then those."""
        mine, theirs = self, other
        if (self.origin is None) != (other.origin is None):
            mine, theirs = replace(self, origin=self.origins), replace(other, origin=other.origins)
        parts = {}
        for part in fields(self):
            first, then = getattr(mine, part.name), getattr(theirs, part.name)
            parts[part.name] = None if first is None else torch.cat([first, then])
        return Tokens(**parts)

    def union(self, other: "Tokens") -> "Tokens":
        """Both sets of tokens, by ascending index."""
        both = self.concat(other)
        return both.take(both.index.argsort())

    def in_given_order(self) -> "Tokens":
        """The tokens in the order they are in, at the same set of places: the first one gets the lowest index."""
        places = self.index.sort().values
        if torch.equal(places, self.index):
            return self
        return replace(self, index=places, origin=self.origins)

    def with_states(self, states: Tensor | None) -> "Tokens":
        """The same tokens with other states, (tokens, width)."""
        return replace(self, states=states)

    def with_sources(self, columns: int) -> "Tokens":
        """The same tokens with an explicit source map over ``columns`` columns."""
        if self.sources is not None:
            return self
        return replace(self, sources=torch.eye(columns, dtype=torch.float32)[self.index])
