"""Which prompt columns a decoder layer holds, and under which position numbers."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from thinsight.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Layout:
    """The rectangle of columns that enters a layer; all tensors (batch, held) on the CPU.

    columns   original prompt column of each held one, ascending
    alive     False for padding and for filling: columns held only because another sample holds more
    filling   True for withdrawn columns that fill the rectangle; nothing may attend to them
    position  number that rotary embedding uses
    packed    (batch,) bool: numbers differ from the prompt's own
    """

    columns: Tensor
    alive: Tensor
    filling: Tensor
    position: Tensor
    packed: Tensor
    _moved: dict = field(default_factory=dict, repr=False)

    @classmethod
    def full(cls, prompt: Prompt) -> "Layout":
        """Every column of the prompt."""
        batch, columns = prompt.alive.shape
        held = torch.arange(columns).expand(batch, columns)
        none = torch.zeros_like(prompt.alive)
        return cls(held, prompt.alive, none, prompt.position, none.any(1))

    @property
    def held(self) -> int:
        """Number of columns held, the same for every sample."""
        return self.columns.shape[1]

    @cached_property
    def last(self) -> Tensor:
        """(batch,) position of each sample's last token: generated ones count on from it."""
        return self.position.masked_fill(~self.alive, -1).amax(1)

    def narrow(self, prompt: Prompt, stay: list[Tensor], pack: Tensor) -> "Layout":
        """The layout in which sample b keeps just the columns ``stay[b]``; where pack[b], its numbers close ranks.

        The longest sample decides the width. Shorter ones are filled up with dead columns, padding first (so that
        right padding stays right of the text), then withdrawn ones.
        """
        width = max(len(columns) for columns in stay)
        rows = []
        for sample, columns in enumerate(stay):
            dead = ~torch.isin(self.columns[sample], columns)
            padding = dead & ~prompt.alive[sample, self.columns[sample]]
            order = torch.cat([padding.nonzero(), (dead & ~padding).nonzero()]).squeeze(1)
            kept = torch.cat([(~dead).nonzero().squeeze(1), order[: width - len(columns)]])
            rows.append(kept.sort().values)
        rows = torch.stack(rows)
        held = self.columns.gather(1, rows)
        alive = torch.stack([torch.isin(h, columns) for h, columns in zip(held, stay, strict=True)])
        first = torch.where(prompt.alive, prompt.position, torch.iinfo(torch.int64).max).amin(1, keepdim=True)
        position = torch.where(pack[:, None], first + (alive.cumsum(1) - 1).clamp(min=0), self.position.gather(1, rows))
        filling = ~alive & prompt.alive.gather(1, held)
        return Layout(held, alive, filling, position, self.packed | pack)

    def rows_in(self, other: "Layout", device: torch.device) -> Tensor:
        """(batch, held) where this layout's columns stand in a wider one."""
        key = ("rows", id(other), device)
        if key not in self._moved:
            self._moved[key] = torch.searchsorted(other.columns.contiguous(), self.columns.contiguous()).to(device)
        return self._moved[key]

    def on(self, name: str, device: torch.device) -> Tensor:
        """One of the parts, moved to ``device`` once."""
        if (name, device) not in self._moved:
            self._moved[name, device] = getattr(self, name).to(device)
        return self._moved[name, device]
