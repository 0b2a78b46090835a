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
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from thinsight.errors import UserError

ROUNDING = 2.0**-19
"""Up to which share two values count as equal: 16 units in the last place of float32. On pocket a change of every pixel
by one such unit moves features and attention by some 5e-7 of themselves, 2e-6 at most."""


def descending(scores: Tensor, scale: float | None = None) -> Tensor:
    """Places along the last axis, int64, the largest entry first; equal ones by place."""
    values = _numbers(scores)
    ordered, order = values.sort(dim=-1, descending=True, stable=True)
    level = _apart(ordered, _scale(values, scale)).cumsum(-1)
    within = (level * values.shape[-1] + order).argsort(-1)  # no two keys are the same
    return order.gather(-1, within)


def ascending(scores: Tensor, scale: float | None = None) -> Tensor:
    """Places along the last axis, int64, the smallest entry first; equal ones by place."""
    return descending(-scores, scale)


def largest(scores: Tensor, scale: float | None = None) -> Tensor:
    """Place of the largest entry along the last axis, int64; of those equal to it the first (no chain)."""
    values = _numbers(scores)
    return at_least(values, values.amax(-1, keepdim=True), scale).to(torch.uint8).argmax(-1)


def at_least(scores: Tensor, bound: Tensor | float, scale: float | None = None) -> Tensor:
    """Whether each entry is larger than ``bound`` or equal to it; ``bound``: a number, or of a shape that fits."""
    values = _numbers(scores)
    bound = torch.as_tensor(bound, dtype=values.dtype, device=values.device)
    return values >= bound - _slack(bound, _scale(values, scale))


def above(scores: Tensor, bound: Tensor | float, scale: float | None = None) -> Tensor:
    """Whether each entry is larger than ``bound``, and not equal to it."""
    values = _numbers(scores)
    bound = torch.as_tensor(bound, dtype=values.dtype, device=values.device)
    return values > bound + _slack(bound, _scale(values, scale))


def double(values: Tensor) -> Tensor:
    """The same in float64; on the CPU where the device has no such type (mps)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def cosines(states: Tensor, others: Tensor | None = None) -> Tensor:
    """states (..., n, width), others (..., m, width) -> (..., n, m) float64; ``others``: None for ``states`` again."""
    units = normalize(double(states), dim=-1)
    return units @ (units if others is None else normalize(double(others), dim=-1)).transpose(-2, -1)


def distances(cosines: Tensor) -> Tensor:
    """Cosines (any shape) -> how far the unit vectors are apart, sqrt(2 - 2 cos); their ``scale`` is 1."""
    return (2 - 2 * cosines).clamp(min=0).sqrt()


def first_largest(values: np.ndarray, scale: float) -> int:
    """`largest` of a row of numbers (n,), for loops that choose one after the other."""
    best = values.max()
    return int((values >= best - slack(best, scale)).argmax()) if np.isfinite(best) else int(values.argmax())


def slack(bound: float, scale: float) -> float:
    """How far a number may be from ``bound`` and still be equal to it."""
    return ROUNDING * (abs(bound) + scale)


def _numbers(scores: Tensor) -> Tensor:
    """float32 or float64, without NaN."""
    values = scores if scores.dtype == torch.float64 else scores.float()
    if bool(values.isnan().any()):
        raise UserError(
            "a score of a token is no number (NaN), so that nothing can be ranked: the model's states have overflowed, "
            "as those in float16 may; load the model with dtype=float32 or bfloat16"
        )
    return values


def _apart(ordered: Tensor, scale: Tensor | float) -> Tensor:
    """(..., n) int64 for sorted values: 1 where an entry is not equal to the one before it, 0 for the first."""
    before, after = ordered[..., :-1], ordered[..., 1:]
    size = torch.maximum(_finite(before), _finite(after))
    apart = (before - after).abs() > ROUNDING * (size + scale)  # false between two equal infinities, whose gap is NaN
    return pad(apart.long(), (1, 0))


def _slack(bound: Tensor, scale: Tensor | float) -> Tensor:
    return ROUNDING * (_finite(bound) + scale)


def _scale(values: Tensor, scale: float | None) -> Tensor | float:
    """``scale``, or (..., 1) the median magnitude of the finite values along the last axis."""
    if scale is not None or values.shape[-1] == 0:
        return scale or 0.0
    finite = values.isfinite()
    ordered = torch.where(finite, values.abs(), torch.inf).sort(-1).values
    middle = (finite.sum(-1, keepdim=True) - 1).clamp(min=0) // 2
    return _finite(ordered.gather(-1, middle))


def _finite(values: Tensor) -> Tensor:
    """Magnitudes, 0 in place of infinite ones."""
    return torch.where(values.isfinite(), values.abs(), 0.0)
