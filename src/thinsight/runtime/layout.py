"""Which columns a layer holds, and hidden states and masks cut to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.attention import filled_up
from thinsight.reduction.prompt import Prompt
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Layout:
    """The rectangle of columns that enters a layer; all tensors (batch, held), on the device of the states.

    columns   original prompt column of each held one, ascending
    alive     False for padding and for filling: columns held only because another sample holds more
    filling   True for withdrawn columns that fill the rectangle; nothing may attend to them
    position  number that rotary embedding uses
    numbered  prompt column whose number that is, on every axis: another than its own where a token stands in another's
              place, or is new; meaningless where packed
    packed    (batch,) bool: numbers are counted anew, without gaps

    first     (batch, 1) position of the prompt's first token

    What follows is known to the host, so that nothing has to be read off the device for it:

    span      columns of the prompt
    padding   per sample: how many padding columns are held
    whole     whether all of it is alive
    filled    whether anything only fills up
    packs     whether any sample is packed
    moved     whether any token may go by another column's number
    """

    columns: Tensor
    alive: Tensor
    filling: Tensor
    position: Tensor
    numbered: Tensor
    packed: Tensor
    first: Tensor | None = None
    span: int = 0
    padding: tuple[int, ...] = ()
    whole: bool = False
    filled: bool = True
    packs: bool = True
    moved: bool = True
    _moved: dict = field(default_factory=dict, repr=False)

    @classmethod
    def full(cls, prompt: Prompt, device: torch.device | str = "cpu") -> "Layout":
        """Every column of the prompt."""
        batch, columns = prompt.alive.shape
        alive = prompt.alive.to(device)
        held = torch.arange(columns, device=device).repeat(batch, 1)
        none = torch.zeros_like(alive)
        padding = tuple((~prompt.alive.numpy()).sum(1).tolist())
        facts = {"padding": padding, "whole": not any(padding), "filled": False, "packs": False, "moved": False}
        position = prompt.position.to(device)
        first = position.masked_fill(~alive, torch.iinfo(torch.int64).max).amin(1, keepdim=True)
        return cls(held, alive, none, position, held, none[:, 0], first, columns, **facts)

    @property
    def held(self) -> int:
        """Number of columns held, the same for every sample."""
        return self.columns.shape[1]

    @cached_property
    def last(self) -> Tensor:
        """(batch,) position of each sample's last token: generated ones count on from it."""
        return self.position.masked_fill(~self.alive, -1).amax(1)

    def narrow(self, stay: Sequence[Tensor], pack: Sequence[bool]) -> "Layout":
        """The layout in which sample b keeps just the columns ``stay[b]``; where pack[b], its numbers close ranks.

        The longest sample decides the width. Shorter ones are filled up with dead columns, padding first (so that
        right padding stays right of the text), then withdrawn ones.
        """
        width, lengths, batch = max(map(len, stay)), list(map(len, stay)), len(stay)
        padding = tuple(min(held, width - n) for held, n in zip(self.padding, lengths, strict=True))
        filled = any(width - n > held for held, n in zip(padding, lengths, strict=True))
        columns = filled_up(list(stay), -1) + 1  # column 0 takes what only fills up
        stays = torch.zeros(batch, self.span + 1, dtype=torch.bool, device=columns.device).scatter_(1, columns, True)
        stays = stays[:, 1:].gather(1, self.columns)
        withdrawn = (self.alive | self.filling) & ~stays
        # those that stay, then padding, then withdrawn columns: the first of each
        kind = torch.where(stays, 0, torch.where(withdrawn, 2, 1))
        rows = kind.sort(dim=1, stable=True).indices[:, :width].sort(dim=1).values
        held, numbered, alive = (part.gather(1, rows) for part in (self.columns, self.numbered, stays))
        position, packed = self.position.gather(1, rows), self.packed
        if any(pack):
            close = torch.tensor(pack, device=columns.device)
            position = torch.where(close[:, None], self.first + (alive.cumsum(1) - 1).clamp(min=0), position)
            packed = packed | close
        facts = {"padding": padding, "whole": min(lengths) == width, "filled": filled}
        facts |= {"packs": self.packs or any(pack), "moved": self.moved}
        filling = withdrawn.gather(1, rows)
        return Layout(held, alive, filling, position, numbered, packed, self.first, self.span, **facts)

    def renumbered(self, before: "Layout", pairs: list[tuple[Tokens, Tokens]], pack: Sequence[bool]) -> "Layout":
        """The same with the numbers that tokens bring along from ``before``, except where pack[b].

        pairs  per sample: the tokens before and those now. A token goes by the number of the one that it is named
               after, one without a name (a class token that was handed on) by that of the place where it stands
        """
        position, numbered = list(self.position.unbind(0)), list(self.numbered.unbind(0))
        for sample, (old, new) in enumerate(pairs):
            if pack[sample] or (old.origin is None and new.origin is None):
                continue
            same = (new.origins[:, None] == old.origins) & (old.origins >= 0)
            named, places = same.any(1), self.places(sample, new.index)
            source = before.places(sample, old.index)[same.to(torch.uint8).argmax(1)]
            for now, then in ((position, before.position), (numbered, before.numbered)):
                number = torch.where(named, then[sample, source], now[sample][places])
                now[sample] = now[sample].index_copy(0, places, number)
        return replace(self, position=torch.stack(position), numbered=torch.stack(numbered), moved=True, _moved={})

    def places(self, sample: int, index: Tensor) -> Tensor:
        """(n,) where the columns ``index`` stand in a sample's row."""
        return torch.searchsorted(self.columns[sample].contiguous(), index)

    def rows(self, rows: Tensor) -> "Layout":
        """The samples ``rows``, in that order."""
        return self._with(*(getattr(self, name)[rows] for name in LAYOUT_PARTS))

    def without_last(self, count: int) -> "Layout":
        """Without the last ``count`` columns of every sample."""
        *parts, packed = (getattr(self, name) for name in LAYOUT_PARTS)
        return self._with(*(part[:, : self.held - count] for part in parts), packed)

    def _with(self, *parts: Tensor) -> "Layout":
        """Other tensors, what the host knows of them being what it knows of these."""
        return replace(self, **dict(zip(LAYOUT_PARTS, parts, strict=True)), padding=(), _moved={})

    def rows_in(self, other: "Layout", device: torch.device) -> Tensor:
        """(batch, held) where this layout's columns stand in a wider one."""
        key = ("rows", other, device)  # layouts are told apart by identity
        if key not in self._moved:
            self._moved[key] = torch.searchsorted(other.columns.contiguous(), self.columns.contiguous()).to(device)
        return self._moved[key]

    def on(self, name: str, device: torch.device) -> Tensor:
        """One of the parts, moved to ``device`` once."""
        if (name, device) not in self._moved:
            self._moved[name, device] = getattr(self, name).to(device)
        return self._moved[name, device]


LAYOUT_PARTS = ("columns", "alive", "filling", "position", "numbered", "packed")


@dataclass(frozen=True, eq=False)
class Layouts:
    """What every layer holds of a prompt.

    full    the prompt as it came
    layers  the layout that entered each layer so far; the first one is what the decoder's own masks are made for
    biases  per layer: (batch, held) what proportional attention adds to the logits of its keys; None for nothing
    """

    full: Layout
    layers: list[Layout] = field(default_factory=list)
    biases: list[Tensor | None] = field(default_factory=list)

    @property
    def base(self) -> Layout:
        """What enters the first layer."""
        return self.layers[0]

    @property
    def reduced(self) -> bool:
        """Whether any layer holds less than the prompt, or weighs what it holds."""
        return any(layout is not self.full for layout in self.layers) or any(bias is not None for bias in self.biases)

    def rows(self, rows: Tensor) -> "Layouts":
        """The samples ``rows``, in that order; the very same object where that changes nothing."""
        rows = rows.to(self.full.columns.device)
        parts = [getattr(layout, name) for layout in self._different() for name in LAYOUT_PARTS]
        parts += [bias for bias in self.biases if bias is not None]
        if len(rows) == len(self.full.columns) and all(torch.equal(part[rows], part) for part in parts):
            return self
        return self._each(lambda layout: layout.rows(rows), lambda bias: bias[rows])

    def without_last(self, count: int) -> "Layouts":
        """Without the last ``count`` columns of the prompt, which every layer holds."""
        return self._each(lambda layout: layout.without_last(count), lambda bias: bias[:, : bias.shape[1] - count])

    def _different(self) -> list[Layout]:
        return list({id(layout): layout for layout in (self.full, *self.layers)}.values())

    def _each(self, of_layout: Callable[[Layout], Layout], of_bias: Callable[[Tensor], Tensor]) -> "Layouts":
        new = {id(layout): of_layout(layout) for layout in self._different()}
        biases = [None if bias is None else of_bias(bias) for bias in self.biases]
        return Layouts(new[id(self.full)], [new[id(layout)] for layout in self.layers], biases)


def take_rows(states: Tensor, rows: Tensor) -> Tensor:
    """states (batch or 1, columns, width), rows (batch, held) -> (batch, held, width)."""
    states = states.expand(len(rows), -1, -1)
    return states.gather(1, rows.to(states.device)[:, :, None].expand(-1, -1, states.shape[-1]))


def cut_mask(mask: Tensor | None, layout: Layout, base: Layout, queries: int, keys: int, flash: bool) -> Tensor | None:
    """The attention mask of a layer that holds ``layout``, from the one that was made for ``base``.

    mask     None (plain causal), (batch, keys of base) bool or 0/1, or (batch or 1, heads or 1, queries, keys of base):
             bool (True: attend) or additive float
    queries  number of new tokens in this call: all held ones in a prefill, the new ones after it
    keys     number of keys this layer attends to: held ones, then whatever was generated

    In a prefill rows are cut like columns. Filling is hidden from everyone; its own rows see only themselves, which
    keeps them finite.
    """
    tail = keys - layout.held
    if mask is None and layout.whole:
        return None
    if 0 < keys - queries < layout.held:
        raise UserError("the cache holds fewer tokens than this prompt has left in it: something else has cut it")
    if mask is None:
        return _padding(layout, tail) if flash else _causal(layout, queries, tail)
    rows = layout.rows_in(base, mask.device)
    if mask.dim() == 2:
        columns = torch.cat([rows, _tail(rows, base.held, tail)], 1)
        return mask.expand(len(rows), -1).gather(1, columns) * _padding(layout, tail).to(mask.device, mask.dtype)
    mask = mask.expand(len(rows), -1, -1, -1)
    if tail == 0 and mask.shape[-2] == base.held:
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    columns = torch.cat([rows, _tail(rows, base.held, tail)], 1)[:, None, None]
    mask = mask.gather(3, columns.expand(-1, mask.shape[1], mask.shape[2], -1))
    return hide_keys(mask, layout.on("filling", mask.device)) if layout.filled else mask


def hide_keys(mask: Tensor, dead: Tensor) -> Tensor:
    """Hide the keys ``dead`` (batch, held) in a 4-D mask; in a square one, dead rows see only themselves."""
    block, allow = (False, True) if mask.dtype == torch.bool else (torch.finfo(mask.dtype).min, 0.0)
    held, keys = dead.shape[1], mask.shape[-1]
    column = torch.nn.functional.pad(dead, (0, keys - held))[:, None, None]
    mask = mask.masked_fill(column, block)
    if mask.shape[-2] == keys == held:
        itself = torch.eye(held, dtype=torch.bool, device=mask.device)
        mask = mask.masked_fill(dead[:, None, :, None] & ~itself, block)
        mask = mask.masked_fill(dead[:, None, :, None] & itself, allow)
    return mask


def add_key_bias(
    mask: Tensor | None, layout: Layout, queries: int, keys: int, bias: Tensor, dtype: torch.dtype
) -> Tensor:
    """The additive mask of a layer, with ``bias`` (batch, held) on top of the logits of its keys; ``mask``: its own."""
    mask = _causal(layout, queries, keys - layout.held).to(bias.device) if mask is None else mask
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
    return mask + torch.nn.functional.pad(bias, (0, keys - layout.held)).to(mask)[:, None, None]


def _padding(layout: Layout, tail: int) -> Tensor:
    """(batch, held + tail) bool: what may be attended to."""
    return torch.nn.functional.pad(layout.alive, (0, tail), value=True)


def _causal(layout: Layout, queries: int, tail: int) -> Tensor:
    """(batch, 1, queries, keys) bool: causal, without the dead columns."""
    keys = layout.held + tail
    mask = torch.ones(queries, keys, dtype=torch.bool, device=layout.alive.device).tril(keys - queries)
    return hide_keys(mask.expand(len(layout.alive), 1, -1, -1), ~layout.alive)


def _tail(rows: Tensor, start: int, count: int) -> Tensor:
    return torch.arange(start, start + count, device=rows.device).expand(len(rows), -1)
