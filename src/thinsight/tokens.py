"""The tokens of one sample, as a stage sees them."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Tokens of one sample in raster order. Bookkeeping stays on the CPU; only ``states`` lives with the model.

    states   (tokens, width)    what enters the layer; None while nobody asks for it
    index    (tokens,) int64    column of the original prompt, ascending: drives positions, masks and pictures
    visual   (tokens,) bool     image (True) or text (False)
    size     (tokens,) float    how many original tokens each stands for; sums to the original count under merging
    sources  (tokens, columns)  share of each original column that went into each token; None: each is only itself
    """

    states: Tensor | None
    index: Tensor
    visual: Tensor
    size: Tensor
    sources: Tensor | None = None

    @classmethod
    def fresh(cls, index: Tensor, visual: Tensor) -> "Tokens":
        """Tokens that have not been touched yet, at the prompt columns ``index``."""
        return cls(None, index, visual, torch.ones(len(index)))

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Tensor) -> "Tokens":
        """The tokens at ``rows`` (int64, or bool of length ``tokens``), all five parts alike."""
        rows = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        return Tokens(
            None if self.states is None else self.states[rows.to(self.states.device)],
            self.index[rows],
            self.visual[rows],
            self.size[rows],
            None if self.sources is None else self.sources[rows],
        )

    def rest(self, rows: Tensor) -> Tensor:
        """The rows that are not in ``rows``, ascending."""
        stays = torch.ones(len(self), dtype=torch.bool)
        stays[rows] = False
        return stays.nonzero().squeeze(1)

    def joined(self, other: "Tokens") -> "Tokens":
        """Both sets of tokens, in raster order."""
        order = torch.cat([self.index, other.index]).argsort()
        parts = {}
        for part in fields(self):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            parts[part.name] = None if mine is None else torch.cat([mine, theirs])[order.to(mine.device)]
        return Tokens(**parts)

    def with_states(self, states: Tensor | None) -> "Tokens":
        """The same tokens with other states, (tokens, width)."""
        return replace(self, states=states)

    def traced(self, columns: int) -> "Tokens":
        """The same tokens with an explicit source map over a prompt of ``columns`` columns."""
        if self.sources is not None:
            return self
        return replace(self, sources=torch.eye(columns)[self.index])
