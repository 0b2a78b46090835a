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
from torch.nn.functional import normalize

from thinsight.errors import UserError

ROUNDING = 2.0**-19
"""Up to which share two values count as equal: 16 units in the last place of float32. On pocket a change of every pixel
by one such unit moves features and attention by some 5e-7 of themselves, 2e-6 at most."""


def descending(scores: Tensor, scale: float | None = None) -> Tensor:
    """Places along the last axis, int64, the largest entry first; equal ones by place."""
    values = _numbers(scores)
    order = (-values).argsort(axis=-1, kind="stable")
    ordered = values[order] if values.ndim == 1 else np.take_along_axis(values, order, -1)
    _check(ordered[..., -1:])  # where the sort puts NaN
    tied = _tied(ordered, _scale(values, scale))
    if tied.any():
        rows = tied.any(-1)
        level = np.insert((~tied[rows]).cumsum(-1), 0, 0, axis=-1)
        keys = level * values.shape[-1] + order[rows]  # no two are the same
        order[rows] = np.take_along_axis(order[rows], keys.argsort(-1), -1)
    return torch.from_numpy(order).to(scores.device)


def ascending(scores: Tensor, scale: float | None = None) -> Tensor:
    """Places along the last axis, int64, the smallest entry first; equal ones by place."""
    return descending(-scores, scale)


def largest(scores: Tensor, scale: float | None = None) -> Tensor:
    """Place of the largest entry along the last axis, int64; of those equal to it the first (no chain)."""
    values = _numbers(scores)
    best = values.max(-1, keepdims=True)
    _check(best)
    first = (values >= best - _slack(best, _scale(values, scale))).argmax(-1)
    return torch.as_tensor(first, device=scores.device)


def at_least(scores: Tensor, bound: Tensor | float, scale: float | None = None) -> Tensor:
    """Whether each entry is larger than ``bound`` or equal to it; ``bound``: a number, or of a shape that fits."""
    values, limit = _compared(scores, bound)
    return torch.as_tensor(values >= limit - _slack(limit, _scale(values, scale)), device=scores.device)


def above(scores: Tensor, bound: Tensor | float, scale: float | None = None) -> Tensor:
    """Whether each entry is larger than ``bound``, and not equal to it."""
    values, limit = _compared(scores, bound)
    return torch.as_tensor(values > limit + _slack(limit, _scale(values, scale)), device=scores.device)


def double(values: Tensor) -> Tensor:
    """The same in float64; on the CPU where the device has no such type (mps)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def cosines(states: Tensor, others: Tensor | None = None) -> Tensor:
    """states (..., n, width), others (..., m, width) -> (..., n, m) float64; ``others``: None for ``states`` again."""
    units = normalize(double(states), dim=-1)
    return units @ (units if others is None else normalize(double(others), dim=-1)).transpose(-2, -1)


def distances(cosines: Tensor) -> Tensor:
    """Cosines (any shape) -> how far the unit vectors are apart, sqrt(2 - 2 cos); their ``scale`` is 1."""
    return (2 - 2 * cosines).clamp_(min=0).sqrt_()


def first_largest(values: np.ndarray, scale: float) -> int:
    """`largest` of a row of numbers (n,), for loops that choose one after the other."""
    best = values.max()
    return int((values >= best - slack(best, scale)).argmax()) if np.isfinite(best) else int(values.argmax())


def slack(bound: float, scale: float) -> float:
    """How far a number may be from ``bound`` and still be equal to it."""
    return ROUNDING * (abs(bound) + scale)


def _numbers(scores: Tensor) -> np.ndarray:
    """float32 or float64, on the CPU: there are few of them, and NumPy takes little time over each call."""
    return (scores if scores.dtype == torch.float64 else scores.float()).detach().cpu().numpy()


def _compared(scores: Tensor, bound: Tensor | float) -> tuple[np.ndarray, np.ndarray]:
    values = _numbers(scores)
    _check(values)
    return values, _numbers(bound) if isinstance(bound, Tensor) else np.asarray(bound, values.dtype)


def _check(values: np.ndarray) -> None:
    """Refuse NaN."""
    if np.isnan(values).any():
        raise UserError(
            "a score of a token is no number (NaN), so that nothing can be ranked: the model's states have overflowed, "
            "as those in float16 may; load the model with dtype=float32 or bfloat16"
        )


def _tied(ordered: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """(..., n - 1) for values in descending order: whether an entry is equal to the one before it."""
    before = ordered[..., :-1]
    with np.errstate(invalid="ignore"):  # between two infinities, which are in their order already
        gap = before - ordered[..., 1:]
        return (gap <= ROUNDING * (np.abs(before) + scale)) & (gap < np.inf)


def _slack(bound: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    return ROUNDING * (_finite(bound) + scale)


def _scale(values: np.ndarray, scale: float | None) -> np.ndarray | float:
    """``scale``, or (..., 1) the median magnitude of the finite values along the last axis."""
    if scale is not None or values.shape[-1] == 0:
        return scale or 0.0
    size, finite = np.abs(values), np.isfinite(values)
    if finite.all():
        middle = (values.shape[-1] - 1) // 2
        return np.partition(size, middle, axis=-1)[..., middle, None]
    size = np.sort(np.where(finite, size, np.inf), axis=-1)
    return _finite(np.take_along_axis(size, (finite.sum(-1, keepdims=True) - 1).clip(min=0) // 2, -1))


def _finite(values: np.ndarray) -> np.ndarray:
    """Magnitudes, 0 in place of infinite ones."""
    return np.where(np.isfinite(values), np.abs(values), 0)
