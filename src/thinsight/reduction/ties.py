"""The rule for scores that are equal but for rounding: of those, the lowest place in the raster counts as the better.

Two machines, or two numbers of threads, sum in another order, so that a float32 score moves in its last digits. Flat
parts of a picture make patches with equal scores, and a plain sort lets those digits choose among them. Here values x
and y are equal if they differ by no more than ``ROUNDING * (max(|x|, |y|) + scale)``: a share of their own size, and
the same share of ``scale``, the size of the terms that they were summed of: 1 for cosines; None, the median magnitude
of the values beside them, for attention and other scores (not the mean or the largest, so that a few large ones make no
small ones equal). In a ranking neighbours that are equal are chained, so that equality is transitive. Where vectors
that are nearly parallel are compared with each other it is by the distance of their unit vectors (`distances`), in
float64: an error of the vectors moves that by as much wherever they are, and their cosine, which is flat at 1, by less
and less.

Every ranking, best one, threshold and quantile of `thinsight.methods` and `thinsight.reduction.stages` goes by these
functions. What differs by more is told apart; scores whose distance is just that of the tolerance may still change
places from machine to machine.

All of it works along the last axis, whatever axes are in front of it, and on the device of the scores: nothing is read
by the host, and no size depends on a value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import UserError

ROUNDING = 2.0**-19
"""Up to which share two values count as equal: 16 units in the last place of float32. On pocket a change of every pixel
by one such unit moves features and attention by some 5e-7 of themselves, 2e-6 at most."""

MANY = 256
"""So many notes on what is no number are made one."""

_noticed: ContextVar[list[Tensor] | None] = ContextVar("noticed", default=None)


def descending(scores: Tensor, scale: float | None = None) -> Tensor:
    """Places along the last axis, int64, the largest entry first; equal ones by place."""
    values = _numbers(scores)
    ordered, order = values.sort(dim=-1, descending=True, stable=True)
    _check(ordered[..., :1])  # where the sort puts NaN
    before = ordered[..., :-1]
    gap = before - ordered[..., 1:]  # NaN between two infinities, which are in their order already
    apart = ~((gap <= ROUNDING * (before.abs() + _scale(values, scale))) & (gap < torch.inf))
    if _at_hand(apart) and bool(apart.all()):
        return order  # on the CPU, where a look costs less than a second sort
    level = torch.nn.functional.pad(apart.cumsum(-1), (1, 0))
    keys = level * values.shape[-1] + order  # no two are the same
    return order.gather(-1, keys.argsort(dim=-1))


def ascending(scores: Tensor, scale: float | None = None) -> Tensor:
    """Places along the last axis, int64, the smallest entry first; equal ones by place."""
    return descending(-scores, scale)


def largest(scores: Tensor, scale: float | None = None) -> Tensor:
    """Place of the largest entry along the last axis, int64; of those equal to it the first (no chain)."""
    values = _numbers(scores)
    best = values.amax(-1, keepdim=True)
    _check(best)
    return _first(values >= best - _slack(best, _scale(values, scale)))


def top(scores: Tensor, count: int, scale: float | None = None) -> Tensor:
    """Whether each entry is one of the ``count`` largest along the last axis, bool; of those equal to the last of them
    the first ones (no chain)."""
    values = _numbers(scores)
    if count == 0 or count >= values.shape[-1]:
        return torch.full(values.shape, count > 0, dtype=torch.bool, device=values.device)
    if count == 1:
        return torch.zeros(values.shape, dtype=torch.bool, device=values.device).scatter_(
            -1, largest(values, scale)[..., None], True
        )
    last = values.topk(count, dim=-1).values[..., -1:]
    _check(values)
    slack = _slack(last, _scale(values, scale))
    more, equal = values > last + slack, (values <= last + slack) & (values >= last - slack)
    return more | (equal & (equal.cumsum(-1) <= count - more.sum(-1, keepdim=True)))


def at_least(scores: Tensor, bound: Tensor | float, scale: float | None = None) -> Tensor:
    """Whether each entry is larger than ``bound`` or equal to it; ``bound``: a number, or of a shape that fits."""
    values, limit = _compared(scores, bound)
    return values >= limit - _slack(limit, _scale(values, scale))


def above(scores: Tensor, bound: Tensor | float, scale: float | None = None) -> Tensor:
    """Whether each entry is larger than ``bound``, and not equal to it."""
    values, limit = _compared(scores, bound)
    return values > limit + _slack(limit, _scale(values, scale))


def double(values: Tensor) -> Tensor:
    """The same in float64; in float32 where the device has no such type (mps)."""
    return values.float() if values.device.type == "mps" else values.double()


def cosines(states: Tensor, others: Tensor | None = None) -> Tensor:
    """states (..., n, width), others (..., m, width) -> (..., n, m) float64; ``others``: None for ``states`` again."""
    units = normalize(double(states), dim=-1)
    return units @ (units if others is None else normalize(double(others), dim=-1)).transpose(-2, -1)


def distances(cosines: Tensor) -> Tensor:
    """Cosines (any shape) -> how far the unit vectors are apart, sqrt(2 - 2 cos); their ``scale`` is 1."""
    return (2 - 2 * cosines).clamp_(min=0).sqrt_()


def first_largest(values: Tensor, scale: float | Tensor) -> Tensor:
    """(..., 1): `largest` of numbers (..., n) that are no less than 0 (or -inf: out of the question), without a look at
    whether they are any, for loops that choose one after the other; ``scale``: a number, or (..., 1)."""
    bound = values.amax(-1, keepdim=True) * (1 - ROUNDING) - ROUNDING * scale
    return (values >= bound).view(torch.uint8).argmax(-1, keepdim=True)


def slack(bound: Tensor | float, scale: float) -> Tensor | float:
    """How far a number may be from ``bound`` and still be equal to it."""
    return ROUNDING * (abs(bound) + scale)


@contextmanager
def noticing(found: list[Tensor]) -> Iterator[None]:
    """Inside, what is no number on another device than the CPU is noted in ``found`` (one bool for each ranking), for
    `refuse` to read off when all is done; elsewhere it is refused at once."""
    token = _noticed.set(found)
    try:
        yield
    finally:
        _noticed.reset(token)


def refuse(found: list[Tensor]) -> None:
    """Refuse NaN that was noted; the list is empty afterwards."""
    noted = list(found)
    found.clear()
    if noted and bool(torch.stack(noted).any()):
        raise UserError(
            "a score of a token is no number (NaN), so that nothing can be ranked: the model's states have overflowed, "
            "as those in float16 may; load the model with dtype=float32 or bfloat16"
        )


def _numbers(scores: Tensor) -> Tensor:
    """float32 or float64."""
    return (scores if scores.dtype == torch.float64 else scores.float()).detach()


def _compared(scores: Tensor, bound: Tensor | float) -> tuple[Tensor, Tensor]:
    values = _numbers(scores)
    _check(values)
    if isinstance(bound, Tensor):
        return values, _numbers(bound)
    return values, torch.full((), bound, dtype=values.dtype, device=values.device)


def _at_hand(values: Tensor) -> bool:
    return values.device.type == "cpu"


def _check(values: Tensor) -> None:
    """Refuse NaN, or note it."""
    if values.is_meta or values.numel() == 0:
        return
    noted = _noticed.get()
    if noted is None or _at_hand(values):
        refuse([values.isnan().any()])
    else:
        noted.append(values.isnan().any())
        if len(noted) > MANY:
            noted[:] = [torch.stack(noted).any()]


def _first(chosen: Tensor) -> Tensor:
    """Place of the first true entry along the last axis; the first of all where none is."""
    return chosen.view(torch.uint8).argmax(-1)


def _slack(bound: Tensor, scale: Tensor | float) -> Tensor:
    return ROUNDING * (_finite(bound) + scale)


def _scale(values: Tensor, scale: float | Tensor | None) -> Tensor | float:
    """``scale``, or (..., 1) the median magnitude of the finite values along the last axis."""
    if scale is not None or values.shape[-1] == 0:
        return 0.0 if scale is None else scale
    return _finite(values.abs().masked_fill(~values.isfinite(), torch.nan).nanmedian(-1, keepdim=True).values)


def _finite(values: Tensor) -> Tensor:
    """Magnitudes, 0 in place of infinite ones."""
    return values.abs().nan_to_num(nan=0.0, posinf=0.0)
