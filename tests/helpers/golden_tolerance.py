"""How closely scores have to agree with those of an official implementation."""

import torch
from torch import Tensor


def assert_scores(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to ``tolerance`` of the largest score, since float32 sums depend on threads and device."""
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, atol=tolerance * scale, rtol=0)
