"""What each token was made of, kept as the steps that made it and multiplied only when somebody looks.

A step holds index tensors and the (small) weights of what was merged, on the device where they came up. `dense` reads
them off and gives (..., tokens, columns) fp32 on the CPU: the share of each original column that went into each token.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

Known = dict["Sources", Tensor]
"""What has been multiplied already, by the identity of the step; for one look at several places."""


class Sources(ABC):
    """A step; each is multiplied once a look."""

    def dense(self, known: Known) -> Tensor:
        """(..., tokens, columns)."""
        if self not in known:
            known[self] = self.multiplied(known)
        return known[self]

    @abstractmethod
    def multiplied(self, known: Known) -> Tensor:
        """The same, made anew."""


@dataclass(frozen=True, eq=False)
class Own(Sources):
    """Each token is one column: index (..., tokens) of ``columns``."""

    index: Tensor
    columns: int

    def multiplied(self, known: Known) -> Tensor:
        return torch.nn.functional.one_hot(self.index.cpu().clamp(min=0), self.columns).float()


@dataclass(frozen=True, eq=False)
class Taken(Sources):
    """The tokens at ``rows`` (..., n) of those before."""

    before: Sources
    rows: Tensor

    def multiplied(self, known: Known) -> Tensor:
        return take_at(self.before.dense(known), self.rows.cpu())


@dataclass(frozen=True, eq=False)
class Merged(Sources):
    """Stayers with what was sent to them: ``share`` (..., leaving, staying) of the leavers at ``gone`` to those at
    ``stay``; with ``stay`` None they are new tokens."""

    before: Sources
    gone: Tensor | None
    share: Tensor
    stay: Tensor | None = None

    def multiplied(self, known: Known) -> Tensor:
        before = self.before.dense(known)
        gone = before if self.gone is None else take_at(before, self.gone.cpu())
        sent = self.share.cpu().transpose(-2, -1) @ gone
        return sent if self.stay is None else take_at(before, self.stay.cpu()) + sent


@dataclass(frozen=True, eq=False)
class Joined(Sources):
    """Some tokens, then others."""

    first: Sources
    then: Sources

    def multiplied(self, known: Known) -> Tensor:
        return torch.cat([self.first.dense(known), self.then.dense(known)], -2)


@dataclass(frozen=True, eq=False)
class Placed(Sources):
    """Tokens of one image at the ``columns`` (n,) of a prompt that are its patches; the columns before ``first`` of the
    image (class tokens) are no place in it. ``width``: columns of the prompt."""

    before: Sources
    columns: Tensor
    first: int
    width: int

    def multiplied(self, known: Known) -> Tensor:
        shares = self.before.dense(known)[..., self.first :]
        return shares.new_zeros(*shares.shape[:-1], self.width).index_copy_(-1, self.columns.cpu(), shares)


@dataclass(frozen=True, eq=False)
class OneOf(Sources):
    """One sample of several, without the first ``skip`` tokens, which only fill it up."""

    several: Sources
    number: int
    skip: int = 0

    def multiplied(self, known: Known) -> Tensor:
        return self.several.dense(known)[self.number, self.skip :]


@dataclass(frozen=True, eq=False)
class Several(Sources):
    """Samples side by side, each with so many tokens in front that only fill it up."""

    samples: tuple[Sources, ...]
    filled: tuple[int, ...]

    def multiplied(self, known: Known) -> Tensor:
        pairs = zip(self.samples, self.filled, strict=True)
        return torch.stack([torch.nn.functional.pad(sample.dense(known), (0, 0, fill, 0)) for sample, fill in pairs])


def take_at(values: Tensor, rows: Tensor) -> Tensor:
    """values (..., tokens) or (..., tokens, width), rows (..., n) -> the values at the rows, in their order."""
    if rows.dim() == 1:
        return values.index_select(0, rows)
    if values.dim() == rows.dim():
        return values.gather(-1, rows)
    samples, tokens, width = values.shape
    flat = rows + tokens * torch.arange(samples, device=rows.device)[:, None]
    return (
        values.reshape(samples * tokens, width).index_select(0, flat.flatten()).reshape(samples, rows.shape[1], width)
    )
